"""Postgres only: the schema, one module per subject, and the embedded server. No HTTP."""
