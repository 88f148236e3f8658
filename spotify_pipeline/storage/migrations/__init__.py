"""Revisions of the schema: `versions/0001_name.py` beside the SQL it runs, forward only."""
