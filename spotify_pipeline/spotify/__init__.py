"""HTTP to Spotify and nothing else: no SQL, no Dagster, no settings."""
