"""The partitions (one per user, the key is the user_id), their sensor, and the tags of runs.

The UI hides tags that begin with `.dagster/`: those are for the pipeline itself.
"""

import logging
from collections import Counter

import dagster as dg

from spotify_pipeline.defs.resources import PipelineResource

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


log = logging.getLogger(__name__)

user_partitions = dg.DynamicPartitionsDefinition(name="spotify_users")


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Keeps one partition per row of the table users, and deletes what Dagster stores about "
        "forgotten users."
    ),
)
def partition_reconciler(
    context: dg.SensorEvaluationContext, pipeline: PipelineResource
) -> dg.SkipReason:
    """Adds and deletes partitions to match the table users, and purges forgotten users."""
    from spotify_pipeline.defs.instance.purge import purge
    from spotify_pipeline.storage.users.export import (
        names_on_tombstones,
        note_traces,
        read_tombstones,
    )
    from spotify_pipeline.storage.users.queries import all_user_ids

    instance, name = context.instance, user_partitions.name or ""
    with pipeline.opened() as opened:
        partitions = set(instance.get_dynamic_partitions(name))
        with opened.engine.connect() as conn:
            users = set(all_user_ids(conn))
            tombstones, forgotten = read_tombstones(conn), names_on_tombstones(conn)
        # Added and deleted here and not by requests in the tick's result: Dagster stores a tick's
        # requests, and they would name users for ever.
        instance.add_dynamic_partitions(name, sorted(users - partitions))
        # The purge deletes the partition of a user with a tombstone, after their backfills.
        unknown = partitions - users - forgotten
        for user_id in sorted(unknown):
            instance.delete_dynamic_partition(name, user_id)
        deleted, completed, failed = Counter[str](), 0, 0
        for tombstone in tombstones:
            try:
                traces, is_complete = purge(instance, tombstone)
                with opened.engine.begin() as conn:
                    note_traces(conn, tombstone, traces, last=is_complete)
            except Exception as error:
                # Only the class: the message may contain the user_id.
                log.warning("A purge failed and is repeated: %s", type(error).__name__)
                failed += 1
                continue
            deleted += traces
            completed += is_complete
    message = f"{len(users)} users; {len(users - partitions)} partitions added, "
    message += f"{len(unknown)} deleted."
    if tombstones:
        counts = ", ".join(f"{n} {kind}" for kind, n in sorted(deleted.items())) or "nothing"
        message += f" {len(tombstones)} forgotten users: {counts} deleted; "
        message += f"{completed} purges completed, {failed} failed."
    return dg.SkipReason(message)
