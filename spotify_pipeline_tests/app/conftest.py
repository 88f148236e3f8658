"""A database as init-db leaves it, and an app's login as docs/configuration.md creates it."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from psycopg import sql
from sqlalchemy import URL, Connection, Engine, text

from spotify_pipeline.storage.postgres.database import CLOSE
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.roles import give_rights
from spotify_pipeline_tests.conftest import temporary_database

ROLE = "spotify_app"
STATEMENT_TIMEOUT_MS = 1000


@pytest.fixture(scope="session")
def login(_admin: Engine, _template: str) -> Iterator[tuple[str, str]]:
    """Name and password of a member of the app's role, with a statement time-out.

    The role itself was created with the template.
    """
    name = f"web_{uuid4().hex}"
    with autocommit(_admin) as server:
        server.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD 'web' IN ROLE {ROLE}"))
        server.execute(text(f"ALTER ROLE {name} SET statement_timeout = {STATEMENT_TIMEOUT_MS}"))
    yield name, "web"
    with autocommit(_admin) as server:
        server.execute(text(f"DROP ROLE {name}"))


@pytest.fixture
def server(_admin: Engine) -> Engine:
    """A superuser's engine."""
    return _admin


@contextmanager
def closed_database(server: Engine, template: str) -> Iterator[URL]:
    """A database to which only its owner and the app's role may connect."""
    with temporary_database(server, template) as url:
        owner = make_engine(url)
        with autocommit(owner) as connection:
            connection.exec_driver_sql(CLOSE.format(sql.Identifier(str(url.database))).as_string())
        give_rights(owner, ROLE)
        owner.dispose()
        yield url


def autocommit(engine: Engine) -> Connection:
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


@pytest.fixture
def database(_admin: Engine, _template: str) -> Iterator[URL]:
    """A fresh, closed database with the schema."""
    with closed_database(_admin, _template) as url:
        yield url


@pytest.fixture
def app_engine(database: URL, login: tuple[str, str]) -> Iterator[Engine]:
    engine = make_engine(database.set(username=login[0], password=login[1]))
    yield engine
    engine.dispose()


@pytest.fixture
def app(app_engine: Engine) -> Iterator[Connection]:
    """A connection of the app in autocommit mode."""
    with autocommit(app_engine) as connection:
        yield connection
