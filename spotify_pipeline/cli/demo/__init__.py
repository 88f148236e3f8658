"""The command demo: simulated days, the Dagster UI, an audit against the simulator."""
