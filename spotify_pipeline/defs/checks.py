"""The asset `record_health`: the rules of `storage.checks` as asset checks over all users.

The hourly job `health` materializes it. It has no partitions and the assets of a user have none of
these checks, so a run of one user neither plans nor skips them. What a sync of one user says is in
`user_sync_check`.

No check is blocking: a sync commits before a check can see what it wrote. Metadata holds counts,
and the command that lists the users.
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

from spotify_pipeline.defs.metadata import OWNERS
from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.storage.checks.drift import all_differences
from spotify_pipeline.storage.checks.inspection import users_by_connection
from spotify_pipeline.storage.checks.rules import (
    HOURLY,
    NO_USER_RECONNECTS,
    Rule,
    Violations,
    count_violations,
)
from spotify_pipeline.storage.postgres.types import ProgrammingError

if TYPE_CHECKING:
    from spotify_pipeline.sync.pipeline import Pipeline

RECORD_HEALTH = dg.AssetKey("record_health")
SCHEMA_CHECK = "schema_is_as_declared"

CHECKS = (
    dg.AssetCheckSpec(
        SCHEMA_CHECK,
        asset=RECORD_HEALTH,
        description="Tables have the columns, constraints and indexes that this version defines.",
    ),
    *(
        dg.AssetCheckSpec(
            rule.name,
            asset=RECORD_HEALTH,
            description=rule.description,
            metadata={"list the names": rule.command},
        )
        for rule in HOURLY
    ),
)


@dg.multi_asset(
    name="record_health",
    specs=[
        dg.AssetSpec(
            RECORD_HEALTH,
            skippable=True,
            description=(
                "Whether the record of all users is right, and its upkeep: connection states, "
                "stale days, the retention of logs and old runs."
            ),
            group_name="health",
            kinds={"postgres"},
            owners=OWNERS,
        )
    ],
    check_specs=CHECKS,
    can_subset=True,
)
def record_health(
    context: dg.AssetExecutionContext, pipeline: PipelineResource
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
    """Evaluates the selected checks; a check that fails fails no run. Then the maintenance."""
    # Imported here: it loads Dagster's storage, 0.3 s of CPU in every process that loads this file.
    from spotify_pipeline.defs.instance.retention import delete_old_runs
    from spotify_pipeline.sync.admin.maintenance import run_maintenance

    with pipeline.opened() as opened:
        wanted = {key.name for key in context.selected_asset_check_keys}
        results = list(evaluate(opened, wanted))
        try:
            # From the UI checks can be executed alone.
            if context.selected_asset_keys:
                done = run_maintenance(opened)
                keep = timedelta(days=opened.settings.keep_runs_days)
                done |= delete_old_runs(context.instance, keep)
                failed = sum(not result.passed for result in results)
                checked = {"checks": len(wanted), "failed": failed}
                # Before the checks, which Dagster takes for checks of the latest materialization.
                yield dg.MaterializeResult(
                    RECORD_HEALTH, metadata={**checked, **_connections(opened), **done}
                )
        except Exception:
            # Maintenance that fails hides no check.
            yield from results
            raise
    yield from results


def _connections(pipeline: "Pipeline") -> dict[str, int | str]:
    """How many users have each state of the connection, and who has to reconnect."""
    with pipeline.engine.connect() as conn:
        users = users_by_connection(conn)
    lists = {"list who has to reconnect": NO_USER_RECONNECTS.command}
    return {f"users {state}": number for state, number in users.items()} | (
        lists if "needs_reauth" in users else {}
    )


def evaluate(pipeline: "Pipeline", wanted: set[str]) -> Iterator[dg.AssetCheckResult]:
    """Evaluates the checks with these names."""
    now = pipeline.now()
    if SCHEMA_CHECK in wanted:
        yield _compare(pipeline)
    for rule in HOURLY:
        if rule.name not in wanted:
            continue
        with pipeline.engine.connect() as conn:
            scope = rule.scope(conn, now)
            try:
                found = count_violations(conn, rule, scope)
            except ProgrammingError:
                # A column is gone.
                yield _result(
                    rule.name, f"The query could not be run: see {SCHEMA_CHECK}.", severe=True
                )
                continue
        yield _violations(rule, found, scope.words)


def _violations(rule: Rule, found: Violations, looked_at: str) -> dg.AssetCheckResult:
    rows, users = found.rows, found.users
    metadata: dict[str, dg.MetadataValue] = {
        "looked at": dg.MetadataValue.text(looked_at),
        "rows": dg.MetadataValue.int(rows),
        "users": dg.MetadataValue.int(users),
        "list the names": dg.MetadataValue.text(rule.command),
    }
    if found.since:
        metadata["since"] = dg.MetadataValue.timestamp(found.since)
    wrong = f"{rows:,} row{'s' * (rows != 1)} of {users:,} user{'s' * (users != 1)}" if rows else ""
    return _result(rule.name, wrong, metadata, severe=rule.severity == "error")


def _compare(pipeline: "Pipeline") -> dg.AssetCheckResult:
    with pipeline.engine.connect() as conn:
        found = all_differences(conn)
    return _result(
        SCHEMA_CHECK,
        "; ".join(found),
        {"differences": dg.MetadataValue.int(len(found))},
        severe=True,
    )


def _result(
    name: str, wrong: str, metadata: Mapping[str, dg.MetadataValue] | None = None, *, severe: bool
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=RECORD_HEALTH,
        check_name=name,
        passed=not wrong,
        severity=dg.AssetCheckSeverity.ERROR if severe else dg.AssetCheckSeverity.WARN,
        description=wrong or None,
        metadata=metadata or {},
    )
