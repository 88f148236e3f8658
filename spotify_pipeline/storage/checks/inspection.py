"""Queries of `doctor`, `healthy` and `metrics`: server, keys, figures, schema, signs of life.

The schema is compared with the table definitions (`differences`). Rules about rows are in `rules`.
"""

import json
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import (
    Connection,
    Table,
    column,
    exists,
    func,
    inspect,
    literal,
    select,
    table,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from spotify_pipeline.domain.quota import Quota
from spotify_pipeline.settings import Settings
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.checks.queries import Scope, missed_polls
from spotify_pipeline.storage.postgres.engine import server_version
from spotify_pipeline.storage.work.api_budget import quota_of, read_state
from spotify_pipeline.storage.work.leases import LEASE_SECONDS
from spotify_pipeline.storage.work.sync_requests import unserved

Figure = tuple[str, str, float]


@dataclass(frozen=True, slots=True)
class StoredKey:
    """The tokens sealed for one key, and one of them to try the key on."""

    key_id: str
    tokens: int
    user_id: str
    sealed_refresh_token: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Connections:
    """Sessions of the server, and how many more this user may open in this database."""

    used: int
    most: int
    left: int
    most_of_ours: int
    holder: str | None
    held: int


def leases_too_long(conn: Connection) -> int:
    """How many leases end later than any can that is taken now."""
    longest = func.clock_timestamp() + timedelta(seconds=LEASE_SECONDS)
    too_long = t.sync_state.c.lease_until > longest
    return conn.scalar(select(func.count()).where(too_long)) or 0


def open_to_anyone(conn: Connection) -> bool:
    """Whether every role of the server has rights on this database, as Postgres has it at first."""
    database, what = func.current_database(), literal("CONNECT, TEMPORARY")
    return bool(conn.scalar(select(func.has_database_privilege("public", database, what))))


def database_name(conn: Connection) -> str:
    """The database that this connection is to."""
    return str(conn.scalar(select(func.current_database())))


def connections(conn: Connection) -> Connections:
    """How many sessions the server has, how many are left for us, and who holds most of them."""
    return Connections(*conn.execute(_CONNECTIONS).one())


# A limit of -1 is none. Postgres keeps some connections for superusers.
_CONNECTIONS = text("""
WITH sessions AS (
    SELECT usename, datname FROM pg_catalog.pg_stat_activity
    WHERE backend_type = 'client backend'
),
server AS (
    SELECT
        (SELECT count(*) FROM sessions) AS used,
        current_setting('max_connections')::integer
            - current_setting('superuser_reserved_connections')::integer
            - coalesce(current_setting('reserved_connections', true)::integer, 0) AS most
)
SELECT
    s.used,
    s.most,
    least(
        s.most - s.used,
        nullif(r.rolconnlimit, -1) - (SELECT count(*) FROM sessions WHERE usename = r.rolname),
        nullif(d.datconnlimit, -1) - (SELECT count(*) FROM sessions WHERE datname = d.datname)
    ),
    least(s.most, nullif(r.rolconnlimit, -1), nullif(d.datconnlimit, -1)),
    (SELECT usename FROM sessions GROUP BY usename ORDER BY count(*) DESC, usename LIMIT 1),
    (SELECT count(*) FROM sessions GROUP BY usename ORDER BY count(*) DESC, usename LIMIT 1)
FROM server AS s
JOIN pg_catalog.pg_roles AS r ON r.rolname = session_user
JOIN pg_catalog.pg_database AS d ON d.datname = current_database()
""")


def is_read_only_by_default(conn: Connection) -> bool:
    """Whether the server, database or role makes sessions read-only unless they say otherwise."""
    return bool(
        conn.scalar(
            text(
                "SELECT reset_val = 'on' FROM pg_catalog.pg_settings"
                " WHERE name = 'default_transaction_read_only'"
            )
        )
    )


def is_read_only(conn: Connection) -> bool:
    """Whether the server refuses writes whatever a session says, as a standby does."""
    return bool(conn.scalar(text("SELECT current_setting('transaction_read_only')::boolean")))


def stored_keys(conn: Connection) -> list[StoredKey]:
    """One row per key id that stored tokens name, by key id."""
    k = t.user_tokens
    keys = (
        select(func.min(k.c.user_id).label("user_id"), func.count().label("tokens"))
        .group_by(k.c.key_id)
        .subquery()
    )
    rows = conn.execute(
        select(k.c.key_id, keys.c.tokens, k.c.user_id, k.c.sealed_refresh_token)
        .join(keys, keys.c.user_id == k.c.user_id)
        .order_by(k.c.key_id)
    )
    return [StoredKey(*row) for row in rows]


def users_by_connection(conn: Connection) -> dict[str, int]:
    """How many users have each state of the connection."""
    u = t.users
    rows = conn.execute(
        select(u.c.connection, func.count()).group_by(u.c.connection).order_by(u.c.connection)
    )
    return {row[0]: row[1] for row in rows}


def failures_by_code(conn: Connection) -> dict[str, int]:
    """How many users' last sync failed with each code, most first.

    A user who disconnected or has to reconnect is no failed sync: the connection says so.
    """
    m = table("metrics", *map(column, ("name", "label", "value")), schema=t.SCHEMA)
    rows = conn.execute(
        select(m.c.label, m.c.value)
        .where(m.c.name == "failed_users")
        .order_by(m.c.value.desc(), m.c.label)
    )
    return {code: int(users) for code, users in rows}


def switched_off(conn: Connection) -> list[str]:
    """Sensors and schedules that were switched off in Dagster, whose database this is; by name."""
    if conn.scalar(select(func.to_regclass("instigators"))) is None:
        return []
    i = table("instigators", column("status"), column("instigator_body"))
    bodies = conn.scalars(select(i.c.instigator_body).where(i.c.status == "STOPPED"))
    return sorted(json.loads(body)["origin"]["job_name"] for body in bodies)


def read_metrics(conn: Connection, settings: Settings) -> list[Figure]:
    """(name, label, value) of each figure; a label is a connection or an error code, or empty.

    Without a limit per day calls are not counted, so there is no figure of them.
    """
    rows = conn.execute(text("SELECT name, label, value FROM spotify_pipeline.metrics"))
    figures = [(name, label, value) for name, label, value in rows if value is not None]
    state, quota = read_state(conn), quota_of(settings)
    figures.append(("blocked", "", float(state.is_blocked or state.outage_until is not None)))
    if quota.calls_per_day:
        figures.append(("calls_used", "", state.calls_of_day()))
        figures.append(("calls_left", "", state.calls_left(quota)))
    return figures


_POSTGRES = postgresql.dialect()  # type: ignore[no-untyped-call]

# Constraints that hold for every row, and indexes. A trigger of any kind that was switched off
# also means that a foreign key is not compared.
_GUARDS = text("""
    SELECT conname FROM pg_constraint WHERE conrelid = CAST(:named AS regclass) AND convalidated
    UNION
    SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = CAST(:named AS regclass) AND i.indisvalid
""")
_SWITCHED_OFF = text("""
    SELECT count(*) FROM pg_trigger
    WHERE tgrelid = CAST(:named AS regclass) AND tgenabled IN ('D', 'R')
""")


def all_differences(conn: Connection) -> list[str]:
    """The differences of every table of ours, each with the table's name."""
    return [
        f"{table.name}: {difference}"
        for table in t.metadata.sorted_tables
        for difference in differences(conn, table)
    ]


def differences(conn: Connection, table: Table) -> list[str]:
    """Missing, different and additional objects of the database, a phrase each; never data."""
    database = inspect(conn)
    if not database.has_table(table.name, t.SCHEMA):
        return [f"the table {table.name} is missing"]
    named = {"named": table.fullname}
    found = {
        column["name"]: _described(column["type"], column["nullable"])
        for column in database.get_columns(table.name, t.SCHEMA)
    }
    wanted = {column.name: _described(column.type, bool(column.nullable)) for column in table.c}
    guards = {
        *(str(constraint.name) for constraint in table.constraints),
        *(str(index.name) for index in table.indexes),
    }
    differing = [
        *(f"the column {name} is missing" for name in wanted.keys() - found.keys()),
        *(f"the column {name} is not ours" for name in found.keys() - wanted.keys()),
        *(
            f"the column {name} is {found[name]}, not {wanted[name]}"
            for name in wanted.keys() & found.keys()
            if found[name] != wanted[name]
        ),
        *(f"{name} is missing" for name in guards - set(conn.scalars(_GUARDS, named))),
    ]
    if conn.scalar(_SWITCHED_OFF, named):
        differing.append("triggers are switched off")
    return sorted(differing)


def _described(type_: TypeEngine[object], nullable: bool | None) -> str:
    # Two names of one type.
    name = type_.compile(dialect=_POSTGRES).replace("FLOAT(53)", "DOUBLE PRECISION")
    return f"{name} {'NULL' if nullable else 'NOT NULL'}"


# Every thread of the daemon writes a heartbeat each 30 seconds, unless it is in the middle of work.
DAEMON_WITHIN = timedelta(seconds=60)
THREAD_WITHIN = timedelta(minutes=10)
# Due users are polled every 15 minutes.
POLL_WITHIN = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Sign:
    """Whether a part of the pipeline lives, and one sentence about it."""

    part: str
    stale: bool
    sentence: str


def database(conn: Connection) -> Sign:
    """Our database answers; the caller has checked its revision."""
    return Sign("database", False, f"PostgreSQL {server_version(conn)} answers")


def daemon(conn: Connection) -> Sign:
    """The newest heartbeat of Dagster's daemon, and of the slowest of its threads.

    `conn` is on Dagster's database. A daemon of another id ended, and its rows stay.
    """
    if conn.scalar(select(func.to_regclass("daemon_heartbeats"))) is None:
        return Sign("daemon", True, "it has never run")
    row = conn.execute(_HEARTBEATS).one()
    if row.newest is None:
        return Sign("daemon", True, "it has never run")
    if row.newest > DAEMON_WITHIN:
        return Sign("daemon", True, f"its last heartbeat was {_ago(row.newest)}")
    if row.oldest > THREAD_WITHIN:
        return Sign(
            "daemon",
            True,
            f"its thread {row.slowest} hangs: its last heartbeat was {_ago(row.oldest)}",
        )
    return Sign("daemon", False, f"its last heartbeat was {_ago(row.newest)}")


# Dagster writes UTC without a zone.
_HEARTBEATS = text("""
WITH beats AS (
    SELECT daemon_type, daemon_id, (now() AT TIME ZONE 'UTC') - "timestamp" AS age
    FROM daemon_heartbeats
),
alive AS (
    SELECT b.daemon_type, b.age FROM beats AS b
    WHERE b.daemon_id = (SELECT n.daemon_id FROM beats AS n ORDER BY n.age LIMIT 1)
)
SELECT
    min(age) AS newest,
    max(age) AS oldest,
    (SELECT daemon_type FROM alive ORDER BY age DESC LIMIT 1) AS slowest
FROM alive
""")


def polls(conn: Connection, quota: Quota) -> Sign:
    """The last successful poll: stale when users are due and none of them was polled for an hour.

    Waiting counts from the end of a block or outage, and not while the day's calls are used up.
    """
    state = read_state(conn)
    last = conn.scalar(select(func.max(t.sync_state.c.plays_fetched_at)))
    is_due = exists(missed_polls(Scope(state.now)).subquery().select())
    due = bool(conn.scalar(select(is_due)))
    said = f"the last one succeeded {_ago(state.now - last)}" if last else "there was none yet"
    is_full = bool(quota.calls_per_day) and state.calls_of_day() >= quota.day_of("plays")
    begins = [instant for instant in (last, state.blocked_until, state.outage_until) if instant]
    if is_full or not due or (begins and state.now - max(begins) <= POLL_WITHIN):
        return Sign("polls", False, said)
    return Sign("polls", True, f"{said}, and users have been due for an hour")


def requests(conn: Connection) -> Sign:
    """The oldest request that waits for a run, without its own pause and blocks by Spotify."""
    waiting = unserved().subquery()
    number, since, now = conn.execute(
        select(func.count(), func.min(waiting.c.since), func.now())
    ).one()
    if not number:
        return Sign("requests", False, "none has waited longer than 5 minutes")
    return Sign("requests", True, f"{number:,} wait for a run: the first came {_ago(now - since)}")


def _ago(age: timedelta) -> str:
    seconds = max(0, round(age.total_seconds()))
    if seconds < 120:
        return f"{seconds} s ago"
    return f"{seconds // 60:,} min ago"
