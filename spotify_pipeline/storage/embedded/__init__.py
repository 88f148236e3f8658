"""A Postgres of our own in the home: found, supervised, shared by all processes, and left."""
