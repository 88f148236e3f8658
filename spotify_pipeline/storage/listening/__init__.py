"""Listening data: plays, days, coverage, top lists, the catalogue, personality."""
