"""Kills processes at random points and compares what is stored with the simulator's own books."""
