"""Measurements of what people wait for; not part of the package."""
