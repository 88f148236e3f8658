"""Faults of Spotify and of the network; `kinds.KINDS` lists all by name."""
