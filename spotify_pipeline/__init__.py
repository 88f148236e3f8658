"""A faithful record of what people listen to on Spotify, in Postgres, orchestrated by Dagster."""
