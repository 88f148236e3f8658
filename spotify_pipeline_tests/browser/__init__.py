"""What users see, in a real browser: `make browser`, where Chromium is installed."""
