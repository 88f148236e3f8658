"""The local Postgres server of a home directory, shared by every process that uses the home."""
