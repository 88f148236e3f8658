"""The simulator's HTTP side: Spotify's endpoints, OAuth and the control API."""
