"""SQL injection: any text passed as a user id, a zone or a name stays text."""

from collections.abc import Callable
from itertools import product

import pytest
from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.exc import DBAPIError

from spotify_pipeline import app as helper
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.app.conftest import autocommit
from spotify_pipeline_tests.storage.postgres.catalog import describe
from spotify_pipeline_tests.storage.rows import add_user, cause

OPENINGS = ("'", "''", '"', "\\'", "$$", "');", "' OR '1'='1", "%s", ":user_id", "E'\\x27")
ATTACKS = (
    "; DROP TABLE spotify_pipeline.users CASCADE; --",
    "; UPDATE spotify_pipeline.users SET connection = 'connected'; --",
    " UNION SELECT sealed_refresh_token FROM spotify_pipeline.user_tokens --",
    "; DELETE FROM spotify_pipeline.plays; /*",
    "; GRANT ALL ON SCHEMA spotify_pipeline TO PUBLIC; --",
    "; COPY (SELECT 1) TO PROGRAM 'touch /tmp/injected'; --",
    "; SET ROLE spotify_pipeline; --",
    " || (SELECT pg_sleep(60)) || ",
    "; SELECT spotify_pipeline.forget_user('ada'); --",
    "{}%n%s%(user_id)s${jndi:ldap://x}",
)
PAYLOADS = [opening + attack for opening, attack in product(OPENINGS, ATTACKS)]


@pytest.fixture
def bystander(connection: Connection) -> str:
    """Another user, whose rows must not change."""
    return add_user(connection, "ada", connection="disconnected", display_name="Ada")


def everything(connection: Connection) -> object:
    schema = describe(connection)
    rights = connection.execute(
        text(
            "SELECT relname, relacl, nspacl FROM pg_class AS c"
            " JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = 'spotify_pipeline'"
        )
    )
    return schema, sorted(map(str, rights)), connection.execute(select(t.users)).all()


def refused(call: Callable[[], object]) -> str | None:
    """The SQLSTATE of the refusal; None: accepted."""
    try:
        call()
    except helper.Refused as refusal:
        return refusal.sqlstate
    except DBAPIError as error:
        return cause(error).sqlstate
    return None


def test_a_hundred_hostile_payloads_change_nothing(
    connection: Connection, app: Connection, bystander: str
) -> None:
    assert len(set(PAYLOADS)) == 100
    before = everything(connection)
    for payload in PAYLOADS:
        for ask in (helper.request_sync, helper.sync_status, helper.disconnect_user):
            assert refused(lambda ask=ask, user_id=payload: ask(app, user_id)) == "SP404"
        assert refused(lambda user_id=payload: helper.forget_user(app, user_id)) == "SP404"
        assert refused(lambda user_id=payload: helper.listening_history(app, user_id, 7)) == "SP404"
        assert helper.top_artists(app, payload, payload) == []
        assert helper.music_personality(app, payload) is None
        assert helper.history_receipts(app, payload) == []
        opened = refused(lambda user_id=payload: helper.open_history_import(app, user_id))
        assert opened == "SP404"
        # As a zone: refused. As id and name: stored unchanged, then deleted.
        zone = refused(lambda zone=payload: helper.register_user(app, "ada", zone))
        assert zone == "22023"
        helper.register_user(app, payload, display_name=payload)
        kept = select(t.users.c.display_name).where(t.users.c.user_id == payload)
        assert connection.scalar(kept) == payload
        helper.forget_user(app, payload)
    assert everything(connection) == before


def test_requested_by_accepts_any_text(
    connection: Connection, app_engine: Engine, bystander: str
) -> None:
    add_user(connection, "bob")
    ask = text(
        "INSERT INTO spotify_pipeline.sync_requests (user_id, requested_by) VALUES ('bob', :name)"
    )
    before = everything(connection)
    with autocommit(app_engine) as app:
        for payload in PAYLOADS:
            app.execute(ask, {"name": payload})
            r = t.sync_requests
            assert connection.scalars(select(r.c.requested_by)).all() == [payload]
            connection.execute(r.delete())
    assert everything(connection) == before
