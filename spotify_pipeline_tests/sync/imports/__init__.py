"""Imports of users' own exports, on a real Postgres."""
