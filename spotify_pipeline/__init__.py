"""A faithful record of what users listen to on Spotify, in Postgres, orchestrated by Dagster."""
