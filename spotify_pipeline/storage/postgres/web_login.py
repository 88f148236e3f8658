"""The web page's own login: a member of the app's role and of nothing else.

On an own server the operator makes it (docs/web.md); on the embedded one it is made here,
with a password that is kept in the home.
"""

from secrets import token_urlsafe

from psycopg import sql
from sqlalchemy import URL, Engine, text

from spotify_pipeline.home import kept_secret
from spotify_pipeline.settings import ConfigurationError, Settings
from spotify_pipeline.storage.postgres.database import pipeline_url
from spotify_pipeline.storage.postgres.engine import BadDatabaseUrl, make_engine, normalise_url
from spotify_pipeline.storage.postgres.roles import exists

LOGIN = "spotify_web"
PASSWORD_FILE = "web-password"  # noqa: S105 (a file name)
# What hangs by mistake ends; a session may change these, so they stop no attacker.
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
        try:
            return normalise_url(settings.web_database_url.get_secret_value())
        except BadDatabaseUrl as error:
            raise BadDatabaseUrl(f"SPOTIFY_PIPELINE_WEB_DATABASE_URL is wrong. {error}") from None
    if settings.database_url is not None:
        raise ConfigurationError(WHAT_TO_DO)
    password = kept_secret(settings.home, PASSWORD_FILE, token_urlsafe(32))
    owner = pipeline_url(settings)
    engine = make_engine(owner, pool_size=1)
    try:
        _make_login(engine, settings.app_role, password)
    finally:
        engine.dispose()
    return owner.set(username=LOGIN, password=password)


def _make_login(engine: Engine, app_role: str, password: str) -> None:
    login, app = sql.Identifier(LOGIN), sql.Identifier(app_role)
    statements = [
        sql.SQL("ALTER ROLE {} LOGIN PASSWORD {} CONNECTION LIMIT 50").format(login, password),
        sql.SQL("GRANT {} TO {}").format(app, login),
        *(
            sql.SQL("ALTER ROLE {} SET {} = {}").format(login, sql.Identifier(name), limit)
            for name, limit in LIMITS.items()
        ),
    ]
    with engine.begin() as conn:
        # One process at a time: two that alter a role at once fail.
        conn.execute(text("SELECT pg_advisory_xact_lock(hashtext('spotify_pipeline web login'))"))
        if not exists(conn, LOGIN):
            statements.insert(0, sql.SQL("CREATE ROLE {}").format(login))
        for statement in statements:
            conn.exec_driver_sql(statement.as_string(), execution_options={"no_parameters": True})
