"""The commands under users: add, change, list, show, connect, export and forget."""
