"""Run tags: what started a run, and for whom."""

import dagster as dg

# request, scheduled, manual
TRIGGER = "spotify/trigger"
# The rows of sync_requests that a run answers.
DISPATCH_KEY = "spotify/dispatch_key"
# The schedule that started a run, to see whether its last one is still going.
SCHEDULE = "spotify/schedule"
PRIORITY = "dagster/priority"
MAX_RETRIES = "dagster/max_retries"
# The machine of a run that a command executes itself.
HOST = "spotify/host"


def request_key(run: dg.DagsterRun) -> str | None:
    """The key of the requests that the run answers.

    A repetition of such a run has its tags too, but was asked for in the UI and not by the row.
    """
    return None if run.parent_run_id else run.tags.get(DISPATCH_KEY)
