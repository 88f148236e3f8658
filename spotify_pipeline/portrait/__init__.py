"""Renders what a user sees of their data, from one read model: terminal, page and picture."""
