"""Reads the listening history that Spotify hands out: archives, files and rows. Stores nothing."""
