"""The work on users: requests, leases, runs, sync state, API budget, alerts, retention."""
