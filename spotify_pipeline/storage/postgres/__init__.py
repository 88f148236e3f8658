"""The database itself: engine, session settings, schema, roles, bulk writes, locks."""
