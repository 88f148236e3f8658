"""Administration by an operator or a schedule: keys, connecting, alerts, maintenance."""
