"""Kills processes at random points and compares the database with the simulator's ledger."""
