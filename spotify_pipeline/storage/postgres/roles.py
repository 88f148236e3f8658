"""The roles of apps and analysts, and the web page's login, which is a member of the app's role.

Every init-db grants a role exactly its rights and revokes all others. A role belongs to the
whole server, so several databases may create it at once, and no advisory lock spans two databases.
It is never dropped, and its own attributes (password, membership) are never changed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from secrets import token_urlsafe

from psycopg import sql
from psycopg.errors import (
    DuplicateObject,
    InsufficientPrivilege,
    InternalError_,
    UniqueViolation,
)
from sqlalchemy import URL, Connection, Engine, func, select, text
from sqlalchemy.exc import DBAPIError

from spotify_pipeline.home import kept_secret
from spotify_pipeline.settings import ConfigurationError, Settings
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.database import configured_url, pipeline_url
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.schema import LOCK

READABLE = (
    "artists",
    "daily_listening",
    "music_personality",
    "music_personality_history",
    "sync_status",
    "time_zones",
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
    "add_history_rows",
    "close_history_import",
    "connect_user",
    "discard_history_import",
    "disconnect_user",
    "end_sessions",
    "export_plays",
    "export_rows",
    "find_profile",
    "forget_user",
    "history_receipts",
    "incomplete_days",
    "listening_discoveries",
    "listening_history",
    "listening_quarters",
    "listening_top",
    "open_gaps",
    "open_history_import",
    "recent_plays",
    "register_user",
    "request_sync",
    "sealing_key",
    "set_profile",
    "share_profile",
    "sign_in_user",
    "top_ranks",
    "user_settings",
)

# Listening data. Neither names of users, tokens, sessions nor queues.
ANALYST_READABLE = (
    "artists",
    "coverage",
    "daily_listening",
    "listening_gaps",
    "listens",
    "music_personality",
    "music_personality_history",
    "plays",
    "top_artists_history",
    "top_tracks_history",
    "tracks",
    "user_top_artists",
    "user_top_tracks",
)

_TRIES = 5


class Rights(Enum):
    """The kind of rights of a role."""

    APP = "app"
    ANALYST = "analyst"


def create_statement(conn: Connection | Engine, role: str) -> str:
    """The statement for a login with CREATEROLE to run, where ours lacks it."""
    return f"CREATE ROLE {_quoted(conn, role)} NOLOGIN"


def give_all_rights(engine: Engine, settings: Settings) -> list[str]:
    """Give both roles their rights; returns the roles that are missing and that we may not make."""
    wanted = {settings.app_role: Rights.APP, settings.analyst_role: Rights.ANALYST}
    return [role for role, rights in wanted.items() if not give_rights(engine, role, rights)]


def give_rights(engine: Engine, role: str, rights: Rights = Rights.APP) -> bool:
    """Make the role if it is missing, and its rights on our objects those of this module.

    False, and nothing changed, when there is no such role and we may make none.
    """
    for _ in range(_TRIES - 1):
        try:
            return _give(engine, role, rights)
        except DBAPIError as error:
            # "tuple concurrently updated": an internal error without a code of its own.
            if not isinstance(error.orig, InternalError_):
                raise
    return _give(engine, role, rights)


def _give(engine: Engine, role: str, rights: Rights) -> bool:
    with engine.begin() as conn:
        conn.execute(select(func.pg_advisory_xact_lock(LOCK)))
        if not exists(conn, role):
            try:
                with conn.begin_nested():
                    conn.exec_driver_sql(create_statement(engine, role))
            except DBAPIError as error:
                if isinstance(error.orig, InsufficientPrivilege):
                    return False
                # Lost a race: the first if the other had committed, else the second.
                if not isinstance(error.orig, DuplicateObject | UniqueViolation):
                    raise
        for statement in _statements(conn, _quoted(engine, role), rights):
            conn.exec_driver_sql(statement)
    return True


def exists(conn: Connection, role: str) -> bool:
    """Whether the server has a role of this name."""
    found = text("SELECT FROM pg_roles WHERE rolname = :role")
    return conn.execute(found, {"role": role}).first() is not None


def _statements(conn: Connection, role: str, rights: Rights) -> list[str]:
    schema, requests = t.SCHEMA, f"{t.SCHEMA}.sync_requests"
    grantees = f"PUBLIC, {role}"
    readable = READABLE if rights is Rights.APP else ANALYST_READABLE
    statements = [
        f"REVOKE ALL ON SCHEMA {schema} FROM {grantees} CASCADE",
        # With a table go the rights on its columns. CASCADE: whatever was passed on goes too.
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {grantees} CASCADE",
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA {schema} FROM {grantees} CASCADE",
        f"REVOKE ALL ON ALL ROUTINES IN SCHEMA {schema} FROM {grantees} CASCADE",
        f"GRANT USAGE ON SCHEMA {schema} TO {role}",
        *(f"GRANT SELECT ON {schema}.{name} TO {role}" for name in readable),
    ]
    if rights is Rights.APP:
        statements += [
            f"GRANT INSERT ({', '.join(REQUEST_INSERTS)}) ON {requests} TO {role}",
            f"GRANT SELECT ({', '.join(REQUEST_READS)}) ON {requests} TO {role}",
            *(f"GRANT EXECUTE ON FUNCTION {schema}.{name} TO {role}" for name in FUNCTIONS),
        ]
    if conn.scalar(_OWNS_DATABASE):
        database = conn.dialect.identifier_preparer.quote_identifier(
            str(conn.scalar(select(func.current_database())))
        )
        statements += [
            f"REVOKE ALL ON DATABASE {database} FROM {role} CASCADE",
            f"GRANT CONNECT ON DATABASE {database} TO {role}",
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

ANALYST_CONTRACT = frozenset(
    ["USAGE on schema", *(f"SELECT on {name}" for name in ANALYST_READABLE)]
)


def rights(conn: Connection, role: str) -> set[str]:
    """The rights of a role on our schema, from any source; they should equal its contract."""
    return set(conn.scalars(_RIGHTS, {"role": role, "schema": t.SCHEMA}))


def _quoted(conn: Connection | Engine, role: str) -> str:
    return conn.dialect.identifier_preparer.quote_identifier(role)


LOGIN = "spotify_web"
VARIABLE = "SPOTIFY_PIPELINE_WEB_DATABASE_URL"
PASSWORD_FILE = "web-password"  # noqa: S105 (a file name)
# Ends sessions that hang by mistake; a session may change these, so they stop no attacker.
LIMITS = {
    "statement_timeout": "15s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "15s",
}
WHAT_TO_DO = (
    "SPOTIFY_PIPELINE_WEB_DATABASE_URL is not set: with a database of your own the web page needs "
    "a login that is a member of the app's role; docs/web.md has the statements."
)


def web_url(settings: Settings) -> URL:
    """The URL with which the web page logs in. Raises ConfigurationError, BadDatabaseUrl."""
    if settings.web_database_url is not None:
        return configured_url(VARIABLE, settings.web_database_url)
    if settings.database_url is not None:
        raise ConfigurationError(WHAT_TO_DO)
    password = kept_secret(settings.home, PASSWORD_FILE, token_urlsafe(32))
    owner = pipeline_url(settings)
    engine = make_engine(owner, pool_size=1)
    try:
        with _locked(engine) as conn:
            _make_login(conn, LOGIN, settings.app_role, password)
    finally:
        engine.dispose()
    return owner.set(username=LOGIN, password=password)


def make_missing_login(engine: Engine, settings: Settings) -> str | None:
    """Make the login of SPOTIFY_PIPELINE_WEB_DATABASE_URL; one that exists stays as it is.

    Returns its name if it is missing and we may not make it. Raises BadDatabaseUrl.
    """
    if settings.web_database_url is None:
        return None
    url = configured_url(VARIABLE, settings.web_database_url)
    if not url.username or not url.password:
        return None
    try:
        with _locked(engine) as conn:
            if not exists(conn, url.username):
                _make_login(conn, url.username, settings.app_role, str(url.password))
    except DBAPIError as error:
        if not isinstance(error.orig, InsufficientPrivilege):
            raise
        return url.username
    return None


@contextmanager
def _locked(engine: Engine) -> Iterator[Connection]:
    """A transaction of one process at a time: two that alter a role at once fail."""
    with engine.begin() as conn:
        # No advisory lock: any login may hold one. This row only the pipeline may lock.
        conn.execute(select(t.settings).with_for_update())
        yield conn


def _make_login(conn: Connection, name: str, app_role: str, password: str) -> None:
    login, app = sql.Identifier(name), sql.Identifier(app_role)
    statements = [
        sql.SQL("ALTER ROLE {} LOGIN PASSWORD {} CONNECTION LIMIT 50").format(login, password),
        sql.SQL("GRANT {} TO {}").format(app, login),
        *(
            sql.SQL("ALTER ROLE {} SET {} = {}").format(login, sql.Identifier(setting), limit)
            for setting, limit in LIMITS.items()
        ),
    ]
    if not exists(conn, name):
        statements.insert(0, sql.SQL("CREATE ROLE {}").format(login))
    for statement in statements:
        conn.exec_driver_sql(statement.as_string(), execution_options={"no_parameters": True})
