"""The tags of runs: what started a run, and which requests it answers.

The UI hides tags that begin with `.dagster/`: those are for the pipeline itself.
"""

import dagster as dg

# request, upload, scheduled, manual
TRIGGER = "spotify/trigger"
# many: a run for so many requests that only one such run works at a time.
REQUESTS = "spotify/requests"
# The rows of sync_requests that a run answers, or the upload that it imports.
DISPATCH_KEY = ".dagster/spotify_dispatch_key"
# The schedule that started a run, to find out whether its previous run is in progress.
SCHEDULE = ".dagster/spotify_schedule"
PRIORITY = "dagster/priority"
# Dagster ends a run that takes longer, in seconds.
MAX_RUNTIME = "dagster/max_runtime"
MAX_RETRIES = "dagster/max_retries"
# The host of a run that a command executes in its own process.
HOST = ".dagster/spotify_host"


def request_key(run: dg.DagsterRun) -> str | None:
    """The dispatch key of the requests that the run answers.

    None for a re-execution from the UI: it copies the tags, but answers no request.
    """
    return None if run.parent_run_id else run.tags.get(DISPATCH_KEY)
