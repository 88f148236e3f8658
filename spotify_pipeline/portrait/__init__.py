"""Renders what a user sees of their data: one read model for the terminal, the page and pictures."""
