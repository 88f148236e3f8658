"""The oldest schema that init-db upgrades; its number is that of databases which exist.

Nothing runs here: a new database is made from storage/tables and stamped with the newest revision.
"""

revision = "0007"
down_revision = None
