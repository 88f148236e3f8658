"""Tests of all that is Dagster, on a real instance in Postgres and with a real daemon."""
