"""Run tags: what started a run, and for whom."""

# request, scheduled, manual
TRIGGER = "spotify/trigger"
# The rows of sync_requests that a run answers.
DISPATCH_KEY = "spotify/dispatch_key"
# The schedule that started a run, to see whether its last one is still going.
SCHEDULE = "spotify/schedule"
PRIORITY = "dagster/priority"
# The machine of a run that a command executes itself.
HOST = "spotify/host"
