"""The Dagster UI in a real browser: `make browser`, where Chromium is installed."""
