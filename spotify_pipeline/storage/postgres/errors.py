"""Explains an error of Postgres in one sentence, for the terminal and for Dagster's run pages.

The driver's own words are never shown: they may repeat parts of a URL with a password in it.
"""

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError

from spotify_pipeline.settings import Settings
from spotify_pipeline.storage.embedded.home import PostgresHome
from spotify_pipeline.storage.postgres.engine import BadDatabaseUrl, normalise_url

OURS = "SPOTIFY_PIPELINE_DATABASE_URL"
DAGSTERS = "DAGSTER_PG_URL"

USER_ID_RULE = (
    "A user id has 1 to 255 characters, none of them a control character, and no three dots "
    "in a row."
)

NONE_LEFT = (
    "it has no connection left for us; close sessions that are not needed, give the app's login a "
    "CONNECTION LIMIT, or raise max_connections"
)
FULL_DISK = "its disk is full; make room and try again"

# Constraints that user input may violate, by name.
RULES = {
    "ck_users_user_id": USER_ID_RULE,
    "ck_users_display_name": "A display name has at most 255 characters.",
}

# Fragments of the driver's messages (in lower case), and their meaning.
_REASONS = (
    ("password authentication failed", "it refuses this user or password; correct {variable}"),
    ("no password supplied", "it requires a password; put one into {variable}"),
    ("pg_hba.conf", "it does not let this user in from here; ask the server's administrator"),
    ('database "', "there is no such database; create it, or correct {variable}", "does not exist"),
    ('role "', "there is no such database user; create it, or correct {variable}", "not exist"),
    ("permission denied for database", "this user may not connect to it; GRANT CONNECT to it"),
    (
        "too many connections for role",
        "its user has no connection left; raise the user's CONNECTION LIMIT or stop what uses it",
    ),
    (
        "too many connections for database",
        "it has no connection left; raise the database's CONNECTION LIMIT or stop what uses it",
    ),
    ("too many", NONE_LEFT),
    ("remaining connection slots", NONE_LEFT),
    # PgBouncer's words: for its clients, and for a client that waited too long for a session.
    ("no more connections allowed", NONE_LEFT),
    ("query_wait_timeout", NONE_LEFT),
    ("no space left on device", FULL_DISK),
    ("starting up", "it is just starting; try again"),
    ("shutting down", "it is just stopping; try again when it runs"),
    ("refused", "nothing listens there; start the server or correct {variable}"),
    ("resolve", "there is no such host; correct {variable}"),
    ("translate host", "there is no such host; correct {variable}"),
    ("time", "it does not answer; check the network and {variable}", "out"),
    ("timeout", "it does not answer; check the network and {variable}"),
    ("ssl", "no encrypted connection could be made; check sslmode in {variable}"),
    ("no such file", "nothing listens there; start the server or correct {variable}"),
)
_LOST = "it broke off the connection; what was not finished is not stored, so try again"

_STATES = {
    "42501": "its user lacks a right that this needs; run this as the owner of the database",
    "40001": "another session changed the same rows; nothing is half-done, try again",
    "40P01": "another session locked the same rows; nothing is half-done, try again",
    "53100": FULL_DISK,
    "53300": NONE_LEFT,
    "25P03": "it ended a session that was silent for too long; nothing is half-done, try again",
    "25006": "it is read-only, as a standby is; correct {variable}",
    "55P03": (
        "another session keeps rows locked, as pg_stat_activity shows; end its transaction, then "
        "try again"
    ),
    "57014": "it cancelled a statement; try again",
}


def explain_database(error: BaseException, settings: Settings | None) -> tuple[str, int] | None:
    """A sentence and an exit code, or None for an unexpected error.

    `settings` name the database; None: they cannot be read.
    """
    if not isinstance(error, DBAPIError):
        return None
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    diagnostics = getattr(error.orig, "diag", None)
    if rule := RULES.get(getattr(diagnostics, "constraint_name", None) or ""):
        return rule, 2
    # Dagster's connections are psycopg2's; ours are psycopg's and carry a note.
    is_dagsters = type(error.orig).__module__.startswith("psycopg2")
    is_dagsters |= DAGSTERS in getattr(error, "__notes__", ())
    variable = DAGSTERS if is_dagsters else OURS
    reason = _STATES.get(state or "")
    # The client refuses the URL itself, without asking a server.
    is_misread = reason is None and isinstance(error, ProgrammingError) and state is None
    if is_misread:
        reason = "{variable} has an option that Postgres's client does not know; correct it"
    if reason is None and isinstance(error, (OperationalError, InterfaceError)):
        reason = _reason(str(error.orig).lower())
    if settings is not None and _embedded_disk_is_full(settings, variable):
        # Postgres's message may not mention the disk.
        reason = FULL_DISK
    if reason is None:
        return None
    where, variable = _where(settings, variable)
    if where is None:
        return (
            f"{variable} has more than one @: write an @ that belongs to the password as %40.",
            2,
        )
    # A reason that names a variable is wrong configuration.
    code = 2 if "{variable}" in reason else 1
    return f"{where} cannot be used: {reason.format(variable=variable)}.", code


def _embedded_disk_is_full(settings: Settings, variable: str) -> bool:
    own_server = settings.database_url or (variable == DAGSTERS and settings.dagster_pg_url)
    return not own_server and PostgresHome(settings.home).disk_is_full()


def _reason(said: str) -> str:
    for first, meaning, *others in _REASONS:
        if first in said and all(other in said for other in others):
            return meaning
    if "connection failed" in said or "could not connect" in said:
        return "it cannot be reached; check that it runs, and {variable}"
    return _LOST


def _where(settings: Settings | None, variable: str) -> tuple[str | None, str]:
    """The database in words, without user and password, and the variable that decides on it.

    None instead of the words when they might contain a part of the password.
    """
    if settings is None:
        return "The database", variable
    try:
        secret = settings.dagster_pg_url if variable == DAGSTERS else settings.database_url
        if secret is not None:
            return _address(normalise_url(secret.get_secret_value())), variable
        if settings.database_url is not None:
            url = normalise_url(settings.database_url.get_secret_value())
            return _address(url.set(database="dagster")), DAGSTERS
    except BadDatabaseUrl:
        return "The database", variable
    return f"The embedded PostgreSQL in {settings.home}", "SPOTIFY_PIPELINE_HOME"


def _address(url: URL) -> str | None:
    name, host = url.database or url.username or "", url.host or "a local socket"
    if "@" in name + host:
        # An unescaped @ in a password makes its rest look like a part of the host.
        return None
    return f"The database {name} on {host}:{url.port or 5432}"
