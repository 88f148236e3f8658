"""Upgrades of the tables of existing databases: `versions/0008_name.py` and so on, forward only."""
