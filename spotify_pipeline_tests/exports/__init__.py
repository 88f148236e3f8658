"""Reading what Spotify hands out."""
