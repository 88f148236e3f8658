"""Processes that the command line starts: Dagster's, and a lock that keeps them single."""
