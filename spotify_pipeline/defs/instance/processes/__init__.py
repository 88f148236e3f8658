"""Dagster's code server, webserver and daemon as `dev` and `serve` start them."""
