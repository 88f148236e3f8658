"""Tests of the use cases, on a real Postgres and a simulated Spotify."""
