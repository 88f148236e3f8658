"""The command doctor: checks of configuration, database, network, rate limits and keys."""
