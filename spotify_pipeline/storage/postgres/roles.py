"""The role of the app: every init-db grants exactly the rights of the contract and revokes others.

A role belongs to the whole server, so several databases may create it at once, and no advisory lock
spans two databases. The role is never dropped, and its own attributes (password, membership) are
never changed.
"""

from enum import Enum

from sqlalchemy import Connection, Engine, func, select, text
from sqlalchemy.exc import DBAPIError

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.schema import LOCK

READABLE = (
    "artists",
    "daily_listening",
    "music_personality",
    "sync_status",
    "tracks",
    "user_top_artists",
    "user_top_tracks",
)
REQUEST_INSERTS = ("user_id", "requested_by")
REQUEST_READS = (
    "id",
    "user_id",
    "status",
    "requested_at",
    "started_at",
    "finished_at",
    "error_code",
    "error_message",
)
FUNCTIONS = (
    "connect_user",
    "disconnect_user",
    "forget_user",
    "listening_history",
    "register_user",
    "request_sync",
)

_INSUFFICIENT_PRIVILEGE = "42501"
# CREATE ROLE that lost a race: the first if the other had committed, else the second.
_MADE_MEANWHILE = ("42710", "23505")
# "tuple concurrently updated": an internal error of the server without a code of its own.
_RACE = "XX000"
_TRIES = 5


class AppRole(Enum):
    """The outcome of give_rights."""

    READY = "ready"
    NOT_ALLOWED = "not allowed"


def create_statement(conn: Connection | Engine, role: str) -> str:
    """The statement for a login with CREATEROLE to run, where ours lacks it."""
    return f"CREATE ROLE {_quoted(conn, role)} NOLOGIN"


def give_rights(engine: Engine, role: str) -> AppRole:
    """Make the role if it is missing, and its rights on our objects those of this module.

    NOT_ALLOWED, and nothing changed, when there is no such role and we may make none.
    """
    for _ in range(_TRIES - 1):
        try:
            return _give(engine, role)
        except DBAPIError as error:
            if _state(error) != _RACE:
                raise
    return _give(engine, role)


def _give(engine: Engine, role: str) -> AppRole:
    with engine.begin() as conn:
        conn.execute(select(func.pg_advisory_xact_lock(LOCK)))
        if not exists(conn, role):
            try:
                with conn.begin_nested():
                    conn.exec_driver_sql(create_statement(engine, role))
            except DBAPIError as error:
                if _state(error) == _INSUFFICIENT_PRIVILEGE:
                    return AppRole.NOT_ALLOWED
                if _state(error) not in _MADE_MEANWHILE:
                    raise
        for statement in _statements(conn, _quoted(engine, role)):
            conn.exec_driver_sql(statement)
    return AppRole.READY


def exists(conn: Connection, role: str) -> bool:
    """Whether the server has a role of this name."""
    found = text("SELECT FROM pg_roles WHERE rolname = :role")
    return conn.execute(found, {"role": role}).first() is not None


def _statements(conn: Connection, app: str) -> list[str]:
    schema, requests = t.SCHEMA, f"{t.SCHEMA}.sync_requests"
    everyone = f"PUBLIC, {app}"
    statements = [
        f"REVOKE ALL ON SCHEMA {schema} FROM {everyone} CASCADE",
        # With a table go the rights on its columns. CASCADE: whatever was passed on goes too.
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {everyone} CASCADE",
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA {schema} FROM {everyone} CASCADE",
        f"REVOKE ALL ON ALL ROUTINES IN SCHEMA {schema} FROM {everyone} CASCADE",
        f"GRANT USAGE ON SCHEMA {schema} TO {app}",
        *(f"GRANT SELECT ON {schema}.{name} TO {app}" for name in READABLE),
        f"GRANT INSERT ({', '.join(REQUEST_INSERTS)}) ON {requests} TO {app}",
        f"GRANT SELECT ({', '.join(REQUEST_READS)}) ON {requests} TO {app}",
        *(f"GRANT EXECUTE ON FUNCTION {schema}.{name} TO {app}" for name in FUNCTIONS),
    ]
    if conn.scalar(_OWNS_DATABASE):
        database = conn.dialect.identifier_preparer.quote_identifier(
            str(conn.scalar(select(func.current_database())))
        )
        statements += [
            f"REVOKE ALL ON DATABASE {database} FROM {app} CASCADE",
            f"GRANT CONNECT ON DATABASE {database} TO {app}",
        ]
    return statements


_OWNS_DATABASE = text(
    "SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()"
)

_RIGHTS = text("""
WITH ours AS (
    SELECT c.oid, c.relname, c.relkind FROM pg_class AS c
    WHERE c.relnamespace = to_regnamespace(:schema) AND c.relkind IN ('r', 'v', 'S')
),
on_table AS (
    SELECT c.oid, c.relname, p.what, has_table_privilege(:role, c.oid, p.what) AS granted
    FROM ours AS c
    CROSS JOIN unnest(
        '{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]
    ) AS p (what)
    WHERE c.relkind <> 'S'
)
SELECT what || ' on schema' FROM unnest('{USAGE,CREATE}'::text[]) AS what
WHERE has_schema_privilege(:role, to_regnamespace(:schema), what)
UNION ALL
SELECT what || ' on database' FROM unnest('{CREATE}'::text[]) AS what
WHERE has_database_privilege(:role, current_database(), what)
UNION ALL
SELECT what || ' on ' || relname FROM on_table WHERE granted
UNION ALL
SELECT what || ' on ' || relname || '.' || a.attname
FROM on_table
JOIN pg_attribute AS a ON a.attrelid = oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE NOT granted AND what IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
    AND has_column_privilege(:role, oid, a.attnum, what)
UNION ALL
SELECT what || ' on ' || relname
FROM ours CROSS JOIN unnest('{USAGE,SELECT,UPDATE}'::text[]) AS what
WHERE relkind = 'S' AND has_sequence_privilege(:role, ours.oid, what)
UNION ALL
SELECT 'EXECUTE on ' || p.proname FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
WHERE p.pronamespace = to_regnamespace(:schema)
    -- The functions of the type text_range belong to the server's superuser, and do nothing.
    AND l.lanname <> 'internal'
    AND has_function_privilege(:role, p.oid, 'EXECUTE')
""")

CONTRACT = frozenset(
    [
        "USAGE on schema",
        *(f"SELECT on {name}" for name in READABLE),
        *(f"INSERT on sync_requests.{name}" for name in REQUEST_INSERTS),
        *(f"SELECT on sync_requests.{name}" for name in REQUEST_READS),
        *(f"EXECUTE on {name}" for name in FUNCTIONS),
    ]
)


def rights(conn: Connection, role: str) -> set[str]:
    """The rights of a role on our schema, from any source; they should equal CONTRACT."""
    return set(conn.scalars(_RIGHTS, {"role": role, "schema": t.SCHEMA}))


def _quoted(conn: Connection | Engine, role: str) -> str:
    return conn.dialect.identifier_preparer.quote_identifier(role)


def _state(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)
