"""Purges a forgotten user from Dagster's storage.

Our own rows are deleted at once, by cascade. Dagster names the user too: as a partition, in the
tags of the user's runs, in events of shared runs, in ticks and in backfills. A run that was active
when the user was forgotten may write the user_id again, so the purge repeats until no such run
remains.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster_postgres import PostgresEventLogStorage
from sqlalchemy import Column, Connection, Table, delete, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.defs.assets import LISTENING_PICTURE
from spotify_pipeline.defs.instance.dagster_private import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    FINISHED_STATUSES,
    NOT_FINISHED_STATUSES,
    PARTITION_NAME_TAG,
    TickStatus,
)
from spotify_pipeline.defs.instance.dagster_private_tables import (
    BULK_ACTION_TERMINAL_STATUSES,
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    AssetKeyTable,
    BulkActionsTable,
    JobTickTable,
    RunsTable,
    SqlEventLogStorageTable,
)
from spotify_pipeline.defs.instance.retention import delete_whole_run
from spotify_pipeline.defs.metadata import IMPORTED_HISTORY, asset_key
from spotify_pipeline.defs.partitions import user_partitions
from spotify_pipeline.domain.outcome import STEPS
from spotify_pipeline.storage.users.export import Tombstone

# A run that a sensor has just requested may not be recorded yet when a user is forgotten, and
# Postgres may still execute a statement that a killed process has sent.
GRACE = timedelta(minutes=1)

PARTITION_TAGS = (
    PARTITION_NAME_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    ASSET_PARTITION_RANGE_END_TAG,
)
# Fields of Dagster's serialized objects that hold partition keys, and fields that hold another
# serialized object as text.
KEY_FIELDS = {"partition", "partition_key", "partition_keys", "partition_names", "subset"}
KEY_FIELDS |= set(PARTITION_TAGS)
SERIALIZED, SUBSETS_BY_ASSET = "serialized_", "partitions_subsets_by_asset_key"
# Every asset with a partition per user: a test compares them with the definitions.
OUR_ASSETS = [
    key.to_string() for key in (IMPORTED_HISTORY.key, LISTENING_PICTURE, *map(asset_key, STEPS))
]
MATERIALIZATION = dg.DagsterEventType.ASSET_MATERIALIZATION.value
# The types make the search use Dagster's index.
EVENTS_WITH_PARTITION = [
    MATERIALIZATION,
    dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value,
    dg.DagsterEventType.ASSET_OBSERVATION.value,
    dg.DagsterEventType.ASSET_FAILED_TO_MATERIALIZE.value,
]
CHECK_EVENTS = [
    dg.DagsterEventType.ASSET_CHECK_EVALUATION.value,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value,
]

_events, _checks = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
_ticks, _backfills, _runs = JobTickTable.c, BulkActionsTable.c, RunsTable.c


def purge(instance: dg.DagsterInstance, tombstone: Tombstone) -> tuple[Counter[str], bool]:
    """Delete what names this user; return counts by kind, and whether the purge is complete.

    Idempotent. A user who registered again under the same id keeps everything since then.
    """
    # Before the deletes (race): a run that ends after this line may write during them.
    no_run_writes = tombstone.age > GRACE and not _has_active_runs(instance, tombstone)
    traces = Counter[str]()
    # Dagster's three storages are in one Postgres.
    storage = instance.event_log_storage
    assert isinstance(storage, PostgresEventLogStorage)
    ended = _ticks.status != TickStatus.STARTED.value
    done = _backfills.status.in_([status.value for status in BULK_ACTION_TERMINAL_STATUSES])
    with storage.index_connection() as conn:
        traces["runs"] = _delete_runs(instance, conn, tombstone)
        traces["check results"] = _delete_check_results(conn, tombstone)
        traces["events"] = _delete_events(conn, tombstone)
        traces["latest materializations"] = _replace_latest(conn, tombstone)
        traces["ticks"] = _delete_rows(conn, JobTickTable, _ticks.tick_body, ended, tombstone)
        traces["backfills"] = _delete_rows(conn, BulkActionsTable, _backfills.body, done, tombstone)
        # Without the tick of the reconciler, which runs this purge and has not ended either.
        ours = _ticks.tick_body.contains('"instigator_name": "partition_reconciler"')
        active_ticks = _rows_naming(conn, JobTickTable, _ticks.tick_body, ~ended & ~ours, tombstone)
        active_backfills = _rows_naming(conn, BulkActionsTable, _backfills.body, ~done, tombstone)
    # Dagster fails a whole backfill if one of its partitions is gone.
    if tombstone.registered_again_at is None and not active_backfills:
        instance.delete_dynamic_partition(user_partitions.name or "", tombstone.user_id)
    return +traces, no_run_writes and not active_ticks and not active_backfills


def _has_active_runs(instance: dg.DagsterInstance, tombstone: Tombstone) -> bool:
    """Whether a run of the user, or one created before the user was forgotten, may still write.

    Runs that ended within GRACE count: Postgres may still execute a killed process's statement.
    """
    known: list[dict[str, Any]] = [{"created_before": tombstone.forgotten_at + GRACE}]
    if tombstone.registered_again_at is None:
        known += [{"tags": {tag: tombstone.user_id}} for tag in PARTITION_TAGS]
    now = datetime.now(UTC)
    # A run that a wrong clock ended in the future has ended.
    since, until = now - GRACE, now + GRACE
    return any(
        instance.get_runs_count(dg.RunsFilter(**runs, statuses=NOT_FINISHED_STATUSES))
        or instance.get_runs_count(dg.RunsFilter(**runs, updated_after=since, updated_before=until))
        for runs in known
    )


def _delete_runs(instance: dg.DagsterInstance, conn: Connection, tombstone: Tombstone) -> int:
    """Delete the user's own finished runs, with their events and compute logs."""
    found = set[str]()
    for tag in PARTITION_TAGS:
        of_user = dg.RunsFilter(
            statuses=FINISHED_STATUSES,
            tags={tag: tombstone.user_id},
            created_before=tombstone.registered_again_at,
        )
        found |= {run.run_id for run in instance.get_runs(of_user)}
    # Dagster writes a run and then its tags, so a killed process may have left only the run.
    named = _runs.partition == tombstone.user_id
    named &= _runs.status.in_([status.value for status in FINISHED_STATUSES])
    if tombstone.registered_again_at:
        named &= _runs.create_timestamp < _registered_again_at(tombstone)
    found |= set(conn.scalars(select(_runs.run_id).where(named)))
    for run_id in found:
        delete_whole_run(instance, run_id)
    return len(found)


def _delete_check_results(conn: Connection, tombstone: Tombstone) -> int:
    of_user = _checks.partition == tombstone.user_id
    if tombstone.registered_again_at:
        of_user &= _checks.create_timestamp < _registered_again_at(tombstone)
    rows = conn.execute(
        delete(AssetCheckExecutionsTable).where(_checks.asset_key.in_(OUR_ASSETS), of_user)
    ).rowcount
    rows += _remove_from_planned_checks(conn, tombstone)
    # Found by their text and not through the row: Dagster writes row and event one after the other,
    # so a killed run may have left only one of them.
    is_check = _events.dagster_event_type.in_(CHECK_EVENTS)
    events = _delete_rows(conn, SqlEventLogStorageTable, _events.event, is_check, tombstone)
    return max(rows, events)


def _remove_from_planned_checks(conn: Connection, tombstone: Tombstone) -> int:
    """Remove the user from other users' check rows of a shared run.

    Until a check is evaluated, its row names every partition of the run.
    """
    where = _checks.asset_key.in_(OUR_ASSETS) & _contains_id(_checks.evaluation_event, tombstone)
    if tombstone.registered_again_at:
        where &= _checks.create_timestamp < _registered_again_at(tombstone)
    removed = 0
    for id_, body in conn.execute(select(_checks.id, _checks.evaluation_event).where(where)).all():
        if not _names(body, tombstone.user_id):
            continue
        left = json.dumps(_without(json.loads(body), tombstone.user_id))
        # Prevents a lost update: Dagster may evaluate the check and rewrite the row meanwhile.
        same = (_checks.id == id_) & (_checks.evaluation_event == body)
        change = (
            delete(AssetCheckExecutionsTable)
            if _names(left, tombstone.user_id)
            else update(AssetCheckExecutionsTable).values(evaluation_event=left)
        )
        removed += conn.execute(change.where(same)).rowcount
    return removed


def _delete_events(conn: Connection, tombstone: Tombstone) -> int:
    of_user = _events.partition == tombstone.user_id
    if tombstone.registered_again_at:
        of_user &= _events.timestamp < _registered_again_at(tombstone)
    found = conn.execute(
        delete(SqlEventLogStorageTable)
        .where(
            _events.asset_key.in_(OUR_ASSETS),
            _events.dagster_event_type.in_(EVENTS_WITH_PARTITION),
            of_user,
        )
        .returning(_events.id)
    ).all()
    conn.execute(
        delete(AssetEventTagsTable).where(AssetEventTagsTable.c.event_id.in_([r[0] for r in found]))
    )
    return len(found)


def _replace_latest(conn: Connection, tombstone: Tombstone) -> int:
    """Replace Dagster's copy of each asset's latest materialization where it names the user."""
    a = AssetKeyTable.c
    rows = conn.execute(
        select(a.asset_key, a.last_materialization, a.cached_status_data).where(
            a.asset_key.in_(OUR_ASSETS)
        )
    ).all()
    replaced = 0
    for key, latest, cached in rows:
        if not _names(latest, tombstone.user_id) and not _names(cached, tombstone.user_id):
            continue
        left = conn.execute(
            select(_events.event, _events.run_id)
            .where(_events.asset_key == key, _events.dagster_event_type == MATERIALIZATION)
            .order_by(_events.id.desc())
            .limit(1)
        ).one_or_none()
        # cached_status_data is a cache, which Dagster fills again when it is read.
        conn.execute(
            update(AssetKeyTable)
            .where(a.asset_key == key, a.last_materialization.is_not_distinct_from(latest))
            .values(
                last_materialization=left.event if left else None,
                last_run_id=left.run_id if left else None,
                cached_status_data=None,
            )
        )
        replaced += 1
    return replaced


def _delete_rows(
    conn: Connection,
    table: Table,
    text: Column[str],
    where: ColumnElement[bool],
    tombstone: Tombstone,
) -> int:
    """Delete the rows of `where` whose JSON has the user's partition key."""
    ids = _rows_naming(conn, table, text, where, tombstone)
    conn.execute(delete(table).where(table.c.id.in_(ids)))
    return len(ids)


def _rows_naming(
    conn: Connection,
    table: Table,
    text: Column[str],
    where: ColumnElement[bool],
    tombstone: Tombstone,
) -> list[int]:
    if tombstone.registered_again_at:
        where &= table.c.timestamp < _registered_again_at(tombstone)
    rows = conn.execute(select(table.c.id, text).where(where, _contains_id(text, tombstone)))
    return [id_ for id_, body in rows if _names(body, tombstone.user_id)]


def _contains_id(text: Column[str], tombstone: Tombstone) -> ColumnElement[bool]:
    """Whether a text has the id as a JSON string anywhere: a filter in SQL before `_names`."""
    # Also escaped once and twice: backfills hold serialized objects inside serialized objects.
    quoted = [json.dumps(tombstone.user_id)]
    for _ in range(2):
        quoted.append(json.dumps(quoted[-1])[1:-1])
    return or_(*(text.contains(string, autoescape=True) for string in quoted))


def _names(body: str | None, user_id: str) -> bool:
    """Whether a serialized object of Dagster has this partition key."""
    return body is not None and user_id in _partition_keys(_parsed(body))


def _partition_keys(value: Any) -> Iterator[str]:
    """Every string in KEY_FIELDS; a string elsewhere may equal a user_id by chance."""
    if isinstance(value, list):
        for item in value:
            yield from _partition_keys(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in KEY_FIELDS:
                yield from _strings(item)
            elif name.startswith(SERIALIZED):
                nested = _parsed(item)
                # Dagster's oldest serialization of a subset is a list of keys.
                yield from _strings(nested) if isinstance(nested, list) else _partition_keys(nested)
            elif name == SUBSETS_BY_ASSET and isinstance(item, dict):
                for subset in item.values():
                    yield from _partition_keys(_parsed(subset))
            else:
                yield from _partition_keys(item)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        # A set is serialized as {"__set__": [...]}.
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _without(value: Any, user_id: str, is_keys: bool = False) -> Any:
    """The serialized object with this partition key removed from its lists of keys."""
    if isinstance(value, dict):
        return {
            name: _without(item, user_id, is_keys or name in KEY_FIELDS)
            for name, item in value.items()
        }
    if isinstance(value, list):
        kept = (item for item in value if not (is_keys and item == user_id))
        return [_without(item, user_id, is_keys) for item in kept]
    return value


def _parsed(text: Any) -> Any:
    if isinstance(text, str):
        with suppress(ValueError):
            return json.loads(text)
    return text


def _registered_again_at(tombstone: Tombstone) -> Any:
    """When the id was registered again, in UTC without a zone like Dagster's columns."""
    assert tombstone.registered_again_at
    return tombstone.registered_again_at.astimezone(UTC).replace(tzinfo=None)
