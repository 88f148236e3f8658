"""The web page's own login: a member of the app's role and of nothing else.

On an own server `init-db` makes it from SPOTIFY_PIPELINE_WEB_DATABASE_URL, or the operator does
(docs/web.md); on the embedded one it has a password that is kept in the home.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_urlsafe

from psycopg import sql
from sqlalchemy import URL, Connection, Engine, select
from sqlalchemy.exc import DBAPIError

from spotify_pipeline.home import kept_secret
from spotify_pipeline.settings import ConfigurationError, Settings
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.database import configured_url, pipeline_url
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.roles import exists

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
        if getattr(error.orig, "sqlstate", None) != "42501":  # insufficient_privilege
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
