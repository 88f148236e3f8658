"""A local simulator of Spotify with synthetic listeners: a process of its own, loopback only."""
