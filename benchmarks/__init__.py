"""Benchmarks of syncs, rebuilds and requests; not part of the package."""
