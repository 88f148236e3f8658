"""Tests of what is kept in Postgres, on a real one."""
