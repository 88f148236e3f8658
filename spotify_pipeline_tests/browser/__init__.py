"""What people see, in a real browser: `make browser`, where Chromium is installed."""
