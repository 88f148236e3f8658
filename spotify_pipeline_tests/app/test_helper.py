"""spotify_pipeline.app as an app uses it: its own login, its own transaction, no other modules."""

import subprocess
import sys
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from spotify_pipeline import app as helper
from spotify_pipeline.domain.personality.definition import LISTENING_METRICS
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.storage.rows import NOON, add_top, add_user, cause, finish_request


def test_the_helper_imports_only_sqlalchemy() -> None:
    program = (
        "import sys, spotify_pipeline.app\n"
        "ours = {name for name in sys.modules if name.startswith('spotify_pipeline')}\n"
        "assert ours == {'spotify_pipeline', 'spotify_pipeline.app'}, ours\n"
        "assert not {'dagster', 'pandas', 'requests', 'pydantic'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_user_registers_requests_a_sync_and_is_forgotten(
    app: Connection, connection: Connection
) -> None:
    helper.register_user(app, "mira", "Europe/Oslo", "Mira")
    before = helper.sync_status(app, "mira")
    assert (before.connection, before.state, before.next_allowed_at) == (
        "disconnected",
        "never",
        None,
    )
    helper.connect_user(
        app,
        "mira",
        client_id="app",
        sealed_refresh_token=b"\x00sealed",
        key_id="k1",
        scopes=[],
        authorized_at=NOON,
    )
    assert connection.scalar(select(t.user_tokens.c.sealed_refresh_token)) == b"\x00sealed"
    request = helper.request_sync(app, "mira")
    assert request == helper.SyncRequest(
        request.request_id, "queued", None, "Your sync is queued and starts in a few seconds."
    )
    status = helper.sync_status(app, "mira")
    assert (status.request_id, status.state) == (request.request_id, "queued")
    assert status.reconnect_by == NOON.replace(month=9)
    helper.disconnect_user(app, "mira")
    assert helper.sync_status(app, "mira").error_code == "CANCELLED"
    helper.forget_user(app, "mira")
    with pytest.raises(helper.Refused) as refused:
        helper.sync_status(app, "mira")
    assert refused.value.sqlstate == helper.UNKNOWN_USER


def test_a_refusal_says_when_and_leaves_the_apps_next_transaction_alone(
    app_engine: Engine, connection: Connection
) -> None:
    add_user(connection, "mira")
    with app_engine.begin() as conn:
        request = helper.request_sync(conn, "mira")
    finish_request(connection, request.request_id, "10 minutes")
    with pytest.raises(helper.Refused) as refused, app_engine.begin() as conn:
        helper.request_sync(conn, "mira")
    assert refused.value.sqlstate == helper.TOO_SOON
    assert str(refused.value) == refused.value.message
    assert refused.value.message.startswith("You synced a short while ago.")
    with app_engine.begin() as conn:
        assert helper.sync_status(conn, "mira").next_allowed_at == refused.value.retry_at
    connection.execute(update(t.users).values(connection="needs_reauth"))
    with pytest.raises(helper.Refused) as refused, app_engine.begin() as conn:
        helper.request_sync(conn, "mira")
    assert (refused.value.sqlstate, refused.value.retry_at) == (helper.RECONNECT, None)


def test_during_a_block_the_request_returns_its_end(
    app: Connection, connection: Connection
) -> None:
    add_user(connection, "mira")
    until = datetime.now(UTC) + timedelta(hours=1)
    connection.execute(update(t.api_budget).values(blocked_until=until, blocked_reason="RATE"))
    assert helper.request_sync(app, "mira").retry_at == until
    status = helper.sync_status(app, "mira")
    assert (status.state, status.blocked_until) == ("blocked", until)


USER_ID_RULE = "A user id has 1 to 255 characters, none of them a control character, and no"
NOBODY: tuple[tuple[dict[str, Any], str], ...] = (
    *(({"user_id": user_id}, USER_ID_RULE) for user_id in ("", "x" * 256, "a\nb", "...", None)),
    ({"timezone": "Mars/Base"}, "There is no such time zone. Use an IANA name"),
    ({"timezone": "oslo"}, "There is no such time zone: did you mean Europe/Oslo?"),
)


def test_invalid_arguments_of_register_user_are_refused_in_one_sentence(
    app: Connection,
) -> None:
    for wrong, sentence in NOBODY:
        with pytest.raises(DBAPIError) as refused:
            helper.register_user(app, **{"user_id": "mira", **wrong})
        error = cause(refused.value)
        assert (error.sqlstate, error.diag.message_detail) == ("22023", None), wrong
        assert (error.diag.message_primary or "").startswith(sentence)


UNUSABLE = (
    *((name, value) for name in ("client_id", "key_id") for value in (None, "")),
    *(("sealed_refresh_token", value) for value in (None, b"")),
    *(("scopes", value) for value in (None, "{a,NULL}")),
    *(("authorized_at", value) for value in (None, "infinity", "0044-03-15 BC")),
)


def test_a_connection_that_cannot_be_used_is_not_stored(
    app: Connection, connection: Connection
) -> None:
    add_user(connection, "mira", connection="disconnected")
    connect = text(
        "SELECT spotify_pipeline.connect_user('mira', :client_id, :sealed_refresh_token, :key_id,"
        " CAST(:scopes AS text[]), CAST(:authorized_at AS timestamptz))"
    )
    right = {"client_id": "app", "sealed_refresh_token": b"sealed", "key_id": "k1", "scopes": "{}"}
    for name, value in UNUSABLE:
        with pytest.raises(DBAPIError) as refused:
            app.execute(connect, {**right, "authorized_at": NOON, name: value})
        error = cause(refused.value)
        assert error.sqlstate == "22023", (name, value)
        sentence = f"The connection cannot be stored: {name} "
        assert (error.diag.message_primary or "").startswith(sentence)
    assert helper.sync_status(app, "mira").connection == "disconnected"


def test_top_lists_come_in_their_order(app: Connection, connection: Connection) -> None:
    add_user(connection, "mira")
    for rank in (2, 1):
        line = ("mira", rank, f"a{rank}")
        add_top(connection, "artists", *line, name=f"Artist {rank}")
        add_top(
            connection,
            "tracks",
            *line,
            name=f"Artist {rank}",
            artist_name="Artist 1",
            album_name="Album",
        )
    artists = helper.top_artists(app, "mira", "short_term")
    assert artists[0] == helper.TopArtist(1, "a1", "Artist 1", None, None, None, NOON)
    assert [artist.rank for artist in artists] == [1, 2]
    tracks = helper.top_tracks(app, "mira", "short_term")
    assert tracks[1] == helper.TopTrack(2, "a2", "Artist 2", "Artist 1", "Album", None, None, NOON)
    assert helper.top_tracks(app, "mira", "long_term") == []


def test_a_personality_has_every_metric_of_the_table(
    app: Connection, connection: Connection
) -> None:
    add_user(connection, "mira")
    assert helper.music_personality(app, "mira") is None
    connection.execute(
        insert(t.music_personality).values(
            user_id="mira",
            window_start=date(2026, 3, 1),
            window_end=date(2026, 3, 28),
            play_count=7,
            night_share=0.5,
            reasons={"newness": "no release dates"},
            tags=["night owl"],
            definition_version=1,
        )
    )
    personality = helper.music_personality(app, "mira")
    assert personality is not None
    assert (personality.play_count, personality.tags) == (7, ["night owl"])
    assert personality.metrics["night_share"] == 0.5
    assert personality.reasons == {"newness": "no release dates"}
    named = {field.name for field in fields(helper.Personality)} - {"metrics"}
    assert personality.metrics.keys() == set(t.music_personality.c.keys()) - named - {"user_id"}


def test_the_last_12_months_of_the_personality_come_oldest_first(
    app: Connection, connection: Connection
) -> None:
    add_user(connection, "mira")
    assert helper.personality_months(app, "mira") == []
    firsts = [date(2025 + n // 12, n % 12 + 1, 1) for n in range(14)]
    connection.execute(
        insert(t.music_personality_history),
        [
            {
                "user_id": "mira",
                "month": month,
                "window_start": month,
                "window_end": month,
                "play_count": 7,
                "night_share": 0.5,
                "reasons": {"newness": "no release dates"},
                "definition_version": 1,
                "computed_at": NOON,
            }
            for month in firsts
        ],
    )
    months = helper.personality_months(app, "mira")
    assert [month.month for month in months] == firsts[2:]
    assert months[0].metrics.keys() == set(LISTENING_METRICS)
    assert (months[0].metrics["night_share"], months[0].play_count) == (0.5, 7)
    assert months[0].reasons == {"newness": "no release dates"}


def test_the_helper_names_every_column_of_the_view_and_the_functions(
    connection: Connection,
) -> None:
    for shape, query in {
        helper.SyncStatus: "SELECT * FROM spotify_pipeline.sync_status",
        helper.Day: "SELECT * FROM spotify_pipeline.listening_history('mira', 1)",
        helper.SyncRequest: "SELECT * FROM spotify_pipeline.request_sync('mira')",
    }.items():
        add_user(connection, "mira")
        columns = list(connection.execute(text(query)).keys())
        assert [field.name for field in fields(shape)] == columns
        connection.execute(t.users.delete())
