"""Use cases on sets of users: client, storage and domain brought together. No Dagster."""
