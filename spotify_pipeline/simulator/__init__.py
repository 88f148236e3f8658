"""A local Spotify with synthetic listeners: its own process, on loopback only."""
