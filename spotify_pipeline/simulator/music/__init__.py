"""The simulator's data: catalogue, listeners, what they play and how their feed shows it."""
