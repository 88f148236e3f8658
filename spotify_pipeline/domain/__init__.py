"""Pure functions on values and frames: no I/O, no clock, no Dagster, no SQL."""
