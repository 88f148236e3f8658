"""What an operator or a schedule starts beside syncs: keys, connecting, alerts, maintenance."""
