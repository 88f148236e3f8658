"""Removes every trace of a forgotten person from Dagster's storage.

Our own rows go at once, by cascade. Dagster has named the person too: as a partition, in the tags
of their runs, in events of shared runs, in ticks and in backfills; and a run that was alive when
they were forgotten may name them once more as it ends. So it is all searched again until no such
run remains.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from sqlalchemy import Column, Connection, Table, delete, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.defs.instance.dagster_private import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    BULK_ACTION_TERMINAL_STATUSES,
    FINISHED_STATUSES,
    NOT_FINISHED_STATUSES,
    PARTITION_NAME_TAG,
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    AssetKeyTable,
    BulkActionsTable,
    JobTickTable,
    SqlEventLogStorage,
    SqlEventLogStorageTable,
    TickStatus,
)
from spotify_pipeline.defs.instance.retention import delete_whole_run
from spotify_pipeline.defs.metadata import asset_key
from spotify_pipeline.defs.partitions import listeners
from spotify_pipeline.domain.steps import STEPS
from spotify_pipeline.storage.users.forgetting import Tombstone

# A run that a sensor was just asking for may not be recorded yet when somebody is forgotten, and
# what a killed process had sent may still be carried out.
GRACE = timedelta(minutes=1)

NAMING_TAGS = (PARTITION_NAME_TAG, ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG)
# Where Dagster's serialized objects keep partition keys, and where they keep others in a text.
KEY_PLACES = {"partition", "partition_key", "partition_keys", "partition_names", "subset"}
KEY_PLACES |= set(NAMING_TAGS)
SERIALIZED, SUBSETS_BY_ASSET = "serialized_", "partitions_subsets_by_asset_key"
OUR_ASSETS = [asset_key(step).to_string() for step in STEPS]
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
_ticks, _backfills = JobTickTable.c, BulkActionsTable.c


def scrub(instance: dg.DagsterInstance, tombstone: Tombstone) -> tuple[Counter[str], bool]:
    """Delete what names this person; return counts by kind, and whether that was all there can be.

    Repeating it is harmless. Who has registered again under the same id keeps what came after.
    """
    # Asked first: a run that ends after this may still write.
    quiet = tombstone.age > GRACE and not _alive(instance, tombstone)
    traces = Counter({"runs": _delete_runs(instance, tombstone)})
    # Dagster's three storages are in one Postgres.
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    ended = _ticks.status != TickStatus.STARTED.value
    done = _backfills.status.in_([status.value for status in BULK_ACTION_TERMINAL_STATUSES])
    with storage.index_connection() as conn:
        traces["check results"] = _delete_check_results(conn, tombstone)
        traces["events"] = _delete_events(conn, tombstone)
        traces["latest materializations"] = _replace_latest(conn, tombstone)
        traces["ticks"] = _delete_naming(conn, JobTickTable, _ticks.tick_body, ended, tombstone)
        traces["backfills"] = _delete_naming(
            conn, BulkActionsTable, _backfills.body, done, tombstone
        )
        # The tick that does this has not ended either.
        ours = _ticks.tick_body.contains('"instigator_name": "partition_reconciler"')
        thinking = _naming(conn, JobTickTable, _ticks.tick_body, ~ended & ~ours, tombstone)
        filling = _naming(conn, BulkActionsTable, _backfills.body, ~done, tombstone)
    # Dagster fails a backfill, for everybody in it, if one of its partitions is gone.
    if tombstone.born_again_at is None and not filling:
        instance.delete_dynamic_partition(listeners.name or "", tombstone.user_id)
    return +traces, quiet and not thinking and not filling


def _alive(instance: dg.DagsterInstance, tombstone: Tombstone) -> bool:
    """Whether a run that was there in their days, or that is theirs, may still write.

    It is at work, or ended a moment ago: a statement of a killed process may outlive it.
    """
    known: list[dict[str, Any]] = [{"created_before": tombstone.forgotten_at + GRACE}]
    if tombstone.born_again_at is None:
        known += [{"tags": {tag: tombstone.user_id}} for tag in NAMING_TAGS]
    just_now = datetime.now(UTC) - GRACE
    return any(
        instance.get_runs_count(dg.RunsFilter(**runs, statuses=NOT_FINISHED_STATUSES))
        or instance.get_runs_count(dg.RunsFilter(**runs, updated_after=just_now))
        for runs in known
    )


def _delete_runs(instance: dg.DagsterInstance, tombstone: Tombstone) -> int:
    """Their own finished runs, with the events and what the runs printed."""
    deleted = 0
    for tag in NAMING_TAGS:
        theirs = dg.RunsFilter(
            statuses=FINISHED_STATUSES,
            tags={tag: tombstone.user_id},
            created_before=tombstone.born_again_at,
        )
        for run in instance.get_runs(theirs):
            delete_whole_run(instance, run.run_id)
            deleted += 1
    return deleted


def _delete_check_results(conn: Connection, tombstone: Tombstone) -> int:
    theirs = _checks.partition == tombstone.user_id
    if tombstone.born_again_at:
        theirs &= _checks.create_timestamp < _naive(tombstone)
    rows = conn.execute(
        delete(AssetCheckExecutionsTable).where(_checks.asset_key.in_(OUR_ASSETS), theirs)
    ).rowcount
    rows += _take_out_of_planned_checks(conn, tombstone)
    # By their text: the row and the event are written one after the other, and a killed run may
    # have left either alone.
    is_check = _events.dagster_event_type.in_(CHECK_EVENTS)
    events = _delete_naming(conn, SqlEventLogStorageTable, _events.event, is_check, tombstone)
    return max(rows, events)


def _take_out_of_planned_checks(conn: Connection, tombstone: Tombstone) -> int:
    """Others' rows of a shared run: until a check is done, each names everybody who was planned."""
    where = _checks.asset_key.in_(OUR_ASSETS) & _maybe(_checks.evaluation_event, tombstone)
    if tombstone.born_again_at:
        where &= _checks.create_timestamp < _naive(tombstone)
    taken_out = 0
    for id_, body in conn.execute(select(_checks.id, _checks.evaluation_event).where(where)).all():
        if not _names(body, tombstone.user_id):
            continue
        left = json.dumps(_without(json.loads(body), tombstone.user_id))
        # The check may be done by now, and its row speak of its own partition only.
        same = (_checks.id == id_) & (_checks.evaluation_event == body)
        change = (
            delete(AssetCheckExecutionsTable)
            if _names(left, tombstone.user_id)
            else update(AssetCheckExecutionsTable).values(evaluation_event=left)
        )
        taken_out += conn.execute(change.where(same)).rowcount
    return taken_out


def _delete_events(conn: Connection, tombstone: Tombstone) -> int:
    theirs = _events.partition == tombstone.user_id
    if tombstone.born_again_at:
        theirs &= _events.timestamp < _naive(tombstone)
    found = conn.execute(
        delete(SqlEventLogStorageTable)
        .where(
            _events.asset_key.in_(OUR_ASSETS),
            _events.dagster_event_type.in_(EVENTS_WITH_PARTITION),
            theirs,
        )
        .returning(_events.id)
    ).all()
    conn.execute(
        delete(AssetEventTagsTable).where(AssetEventTagsTable.c.event_id.in_([r[0] for r in found]))
    )
    return len(found)


def _replace_latest(conn: Connection, tombstone: Tombstone) -> int:
    """The copy that Dagster keeps of each asset's latest materialization, and its summary."""
    a = AssetKeyTable.c
    rows = conn.execute(
        select(a.asset_key, a.last_materialization, a.cached_status_data).where(
            a.asset_key.in_(OUR_ASSETS)
        )
    ).all()
    replaced = 0
    for key, latest, summary in rows:
        if not _names(latest, tombstone.user_id) and not _names(summary, tombstone.user_id):
            continue
        left = conn.execute(
            select(_events.event, _events.run_id)
            .where(_events.asset_key == key, _events.dagster_event_type == MATERIALIZATION)
            .order_by(_events.id.desc())
            .limit(1)
        ).one_or_none()
        # Dagster computes the summary anew when it is asked for.
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


def _delete_naming(
    conn: Connection,
    table: Table,
    text: Column[str],
    where: ColumnElement[bool],
    tombstone: Tombstone,
) -> int:
    """Delete those of these rows whose JSON has the user's partition key."""
    gone = _naming(conn, table, text, where, tombstone)
    conn.execute(delete(table).where(table.c.id.in_(gone)))
    return len(gone)


def _naming(
    conn: Connection,
    table: Table,
    text: Column[str],
    where: ColumnElement[bool],
    tombstone: Tombstone,
) -> list[int]:
    if tombstone.born_again_at:
        where &= table.c.timestamp < _naive(tombstone)
    rows = conn.execute(select(table.c.id, text).where(where, _maybe(text, tombstone)))
    return [id_ for id_, body in rows if _names(body, tombstone.user_id)]


def _maybe(text: Column[str], tombstone: Tombstone) -> ColumnElement[bool]:
    """Whether a text has the id as a JSON string anywhere; what Postgres can tell of `_names`."""
    # The same inside one and two serialized values, too: backfills have it.
    quoted = [json.dumps(tombstone.user_id)]
    for _ in range(2):
        quoted.append(json.dumps(quoted[-1])[1:-1])
    return or_(*(text.contains(one, autoescape=True) for one in quoted))


def _names(body: str | None, user_id: str) -> bool:
    """Whether a serialized object of Dagster's has this partition key."""
    return body is not None and user_id in _partition_keys(_parsed(body))


def _partition_keys(value: Any) -> Iterator[str]:
    """Every string where Dagster keeps partition keys; any other text may equal an id by chance."""
    if isinstance(value, list):
        for item in value:
            yield from _partition_keys(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in KEY_PLACES:
                yield from _strings(item)
            elif name.startswith(SERIALIZED):
                nested = _parsed(item)
                # A list is the oldest form of a subset.
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


def _without(value: Any, user_id: str, in_place: bool = False) -> Any:
    """A serialized object without this partition key in its lists of partition keys."""
    if isinstance(value, dict):
        return {
            name: _without(item, user_id, in_place or name in KEY_PLACES)
            for name, item in value.items()
        }
    if isinstance(value, list):
        kept = (item for item in value if not (in_place and item == user_id))
        return [_without(item, user_id, in_place) for item in kept]
    return value


def _parsed(text: Any) -> Any:
    if isinstance(text, str):
        with suppress(ValueError):
            return json.loads(text)
    return text


def _naive(tombstone: Tombstone) -> Any:
    """When the id was registered again, as Dagster's columns have it: UTC without a zone."""
    assert tombstone.born_again_at
    return tombstone.born_again_at.astimezone(UTC).replace(tzinfo=None)
