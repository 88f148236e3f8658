"""Queries of `doctor` and `metrics` about the server, keys and figures. Rules are in `rules`."""

import json
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import Connection, column, func, literal, select, table, text

from spotify_pipeline.settings import Settings
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work.api_budget import budget_state
from spotify_pipeline.storage.work.leases import LEASE_SECONDS

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
    budget = budget_state(conn, settings)
    figures.append(("blocked", "", float(bool(budget.blocked_until or budget.outage_until))))
    if budget.calls_left is not None:
        figures.append(("calls_used", "", budget.calls_of_day))
        figures.append(("calls_left", "", budget.calls_left))
    return figures
