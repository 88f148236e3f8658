"""Many app sessions beside syncs: no deadlock, no raw error, no session waits long."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from random import Random

import psycopg
import pytest
from sqlalchemy import Connection, text

from spotify_pipeline.app import Refused
from spotify_pipeline.domain.outcome import BLOCKED, UserOutcome
from spotify_pipeline.simulator.faults.refusals import InvalidGrant
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres import locks
from spotify_pipeline.storage.postgres.roles import FUNCTIONS
from spotify_pipeline.storage.work import sync_requests
from spotify_pipeline.sync.admin.maintenance import run_maintenance
from spotify_pipeline.sync.requests import answer_requests, enlist_requests
from spotify_pipeline.sync.runs import choose, sync_chunk
from spotify_pipeline.sync.tokens import SAVE_SECONDS
from spotify_pipeline_tests.sync.pipeline_fixture import SCOPES, Scenario

SECONDS = 60 if "SOAK" in os.environ else 10
SESSIONS = 50
# Pause between two calls of a session: an app does not call in a tight loop.
THINKING_SECONDS = 0.1
# How much longer than a statement without locks a call may take: a busy machine delays both.
P99_SECONDS = 0.25
NO_LOCKS = "SELECT 1"

# The SQLSTATEs a call may raise: refusals, and a serialization failure to retry.
CONTRACT = {None, "SP403", "SP404", "SP409", "SP422", "SP423", "SP429"}
LEVELS = {
    psycopg.IsolationLevel.READ_COMMITTED: CONTRACT,
    psycopg.IsolationLevel.REPEATABLE_READ: CONTRACT | {"40001"},
    psycopg.IsolationLevel.SERIALIZABLE: CONTRACT | {"40001"},
}

# Functions that write nothing, with their arguments after the user's id.
READERS = {
    "export_plays": ", NULL, NULL",
    "export_rows": "",
    "history_receipts": ", 3",
    "incomplete_days": ", 30",
    "listening_discoveries": ", '2026-02-01', '2026-03-31', 10",
    "listening_history": ", 30",
    "listening_quarters": ", 30",
    "listening_top": ", 'tracks', '2026-02-01', '2026-03-31', 10",
    "open_gaps": "",
    "recent_plays": ", 50",
    "top_ranks": ", 7",
    "user_settings": "",
}
# Of the imports that the sessions open.
IMPORTS = 200
HISTORY_ROW = """[{"ended_at": "2024-03-01T12:34:56Z", "ms_played": 9, "track_name": "Song",
    "artist_name": "Artist"}]"""
HISTORY_FILE = """[{"name": "a.json", "source": "account", "counts": {}, "malformed": [],
    "first_at": "2024-03-01T12:34:56Z", "last_at": "2024-03-01T12:34:56Z"}]"""
CONNECT = "SELECT spotify_pipeline.connect_user(%s, 'app', 'sealed', 'k1', %s, %s)"
CALLS: dict[str, Callable[[str, Random], tuple[str, list[object]]]] = {
    "request_sync": lambda u, _: ("SELECT * FROM spotify_pipeline.request_sync(%s)", [u]),
    "INSERT": lambda u, _: (
        "INSERT INTO spotify_pipeline.sync_requests (user_id, requested_by) VALUES (%s, 'app')",
        [u],
    ),
    "connect_user": lambda u, _: (CONNECT, [u, list(SCOPES), datetime.now(UTC)]),
    "register_user": lambda u, random: (
        "SELECT spotify_pipeline.register_user(%s, %s, %s)",
        [u, random.choice(["UTC", "Europe/Oslo", None]), random.choice(["Ada", None])],
    ),
    "disconnect_user": lambda u, _: ("SELECT spotify_pipeline.disconnect_user(%s)", [u]),
    "forget_user": lambda u, _: ("SELECT spotify_pipeline.forget_user(%s)", [u]),
    "sync_status": lambda u, _: (
        "SELECT * FROM spotify_pipeline.sync_status WHERE user_id = %s",
        [u],
    ),
    "sign_in_user": lambda u, _: ("SELECT spotify_pipeline.sign_in_user(%s, %s, 'Ada')", [u, u]),
    "set_profile": lambda u, random: (
        "SELECT spotify_pipeline.set_profile(%s, %s, true)",
        [u, f"name-{random.randrange(30)}"],
    ),
    "share_profile": lambda u, random: (
        "SELECT spotify_pipeline.share_profile(%s, %s, now() + interval '1 day')",
        [u, random.randbytes(32)],
    ),
    "end_sessions": lambda u, _: ("SELECT spotify_pipeline.end_sessions(%s)", [u]),
    "open_history_import": lambda u, _: ("SELECT spotify_pipeline.open_history_import(%s)", [u]),
    "add_history_rows": lambda _, random: (
        "SELECT spotify_pipeline.add_history_rows(%s, %s, 0, %s)",
        [random.randrange(IMPORTS), random.randrange(9), HISTORY_ROW],
    ),
    "close_history_import": lambda _, random: (
        "SELECT spotify_pipeline.close_history_import(%s, %s)",
        [random.randrange(IMPORTS), HISTORY_FILE],
    ),
    "discard_history_import": lambda _, random: (
        "SELECT spotify_pipeline.discard_history_import(%s)",
        [random.randrange(IMPORTS)],
    ),
    **{
        name: lambda u, _, name=name, rest=rest: (
            f"SELECT * FROM spotify_pipeline.{name}(%s{rest})",
            [u],
        )
        for name, rest in READERS.items()
    },
    "find_profile": lambda _, random: (
        "SELECT * FROM spotify_pipeline.find_profile(%s, NULL)",
        [f"name-{random.randrange(30)}"],
    ),
    "sealing_key": lambda *_: ("SELECT * FROM spotify_pipeline.sealing_key()", []),
    NO_LOCKS: lambda *_: (NO_LOCKS, []),
}
OFTEN = {"forget_user": 1, "disconnect_user": 2, "connect_user": 6, "register_user": 6}

Call = tuple[str, str | None, float]


def app_session(
    url: str, seed: int, user_ids: list[str], until: float, level: psycopg.IsolationLevel
) -> list[Call]:
    """The calls of one session, each in a transaction: name, SQLSTATE or None, seconds."""
    random, calls = Random(seed), list[Call]()
    weights = [OFTEN.get(name, 4) for name in CALLS]
    with psycopg.connect(url) as conn:
        conn.execute("SET ROLE spotify_app")
        conn.commit()
        conn.isolation_level = level
        while time.monotonic() < until:
            (name,) = random.choices(list(CALLS), weights)
            statement, parameters = CALLS[name](random.choice(user_ids), random)
            started, state = time.monotonic(), None
            try:
                conn.execute(statement, parameters)
                conn.commit()
            except psycopg.Error as error:
                state = error.sqlstate or type(error).__name__
                conn.rollback()
            calls.append((name, state, time.monotonic() - started))
            time.sleep(random.random() * 2 * THINKING_SECONDS)
    return calls


def app_sessions(
    url: str, user_ids: list[str], seconds: float, level: psycopg.IsolationLevel
) -> list[Call]:
    """The calls of SESSIONS sessions at once."""
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(SESSIONS) as pool:
        sessions = [
            pool.submit(app_session, url, seed, user_ids, until, level) for seed in range(SESSIONS)
        ]
        return [call for session in sessions for call in session.result()]


def keep_syncing(scenario: Scenario, user_ids: list[str], until: float) -> int:
    """Runs all work that locks users' rows, repeatedly; returns the number of rounds."""
    rounds = 0
    while time.monotonic() < until:
        for user_id in user_ids[::6]:
            try:
                scenario.connect(user_id, kind="light")
            except Refused as error:
                # A session has just forgotten this user.
                if error.sqlstate != "SP404":
                    raise
        run_id = f"run {rounds}"
        scenario.sync(*user_ids)
        choose(scenario.pipeline, run_id, "active", 6)
        with sync_chunk(scenario.pipeline, run_id, 0):
            pass
        with scenario.pipeline.engine.begin() as conn:
            keys = {request.dispatch_key for request in sync_requests.assign(conn)}
        for key in keys:
            enlist_requests(scenario.pipeline, key, key)
            answer_requests(scenario.pipeline, key, key)
        run_maintenance(scenario.pipeline)
        rounds += 1
    return rounds


def p99_of(calls: list[Call], name: str) -> float:
    """The 99th percentile of the calls of this function."""
    seconds = sorted(seconds for called, _, seconds in calls if called == name)
    return seconds[len(seconds) * 99 // 100]


@pytest.mark.timeout(180 + 2 * SECONDS)
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_fifty_app_sessions_beside_syncs_see_no_deadlock_and_no_raw_error(
    scenario: Scenario, request: pytest.FixtureRequest, level: psycopg.IsolationLevel
) -> None:
    user_ids = [f"user{n:02}" for n in range(18)]
    for user_id in user_ids:
        scenario.connect(user_id, kind="light")
    scenario.execute("UPDATE spotify_pipeline.settings SET request_cooldown = '0'")
    url = scenario.pipeline.engine.url.set(drivername="postgresql")
    address = url.render_as_string(hide_password=False)
    seconds = SECONDS if LEVELS[level] == CONTRACT else SECONDS / 2
    # The app is another process: threads of this one would slow the sync down.
    with ProcessPoolExecutor(1, get_context("spawn")) as app:
        app.submit(time.monotonic).result()
        sessions = app.submit(app_sessions, address, user_ids, seconds, level)
        rounds = keep_syncing(scenario, user_ids, time.monotonic() + seconds)
        calls = sessions.result()
    wrong = Counter((name, state) for name, state, _ in calls if state not in LEVELS[level])
    p99 = {name: p99_of(calls, name) for name in CALLS}
    figure = f"{len(calls):,} app calls ({level.name}) beside {rounds} rounds of syncs: p99 "
    figure += ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in p99.items())
    request.node.user_properties.append(("figure", figure))
    assert wrong == {}
    assert rounds > 0
    assert {name for name, *_ in calls} == CALLS.keys()
    if "SOAK" in os.environ:
        # On a machine busy with other tests these take seconds.
        for name in CALLS:
            assert p99[name] - p99[NO_LOCKS] < P99_SECONDS, name


def test_the_sessions_call_every_function_of_the_app() -> None:
    assert set(FUNCTIONS) <= CALLS.keys()


@pytest.fixture
def two(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """Eve and Finn are connected; the lock time-out is short."""
    monkeypatch.setattr(locks, "WAIT", "100ms")
    for user_id in ("eve", "finn"):
        scenario.connect(user_id, kind="light")
    return scenario


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (CONNECT, ["nobody", list(SCOPES), datetime(2026, 1, 1, tzinfo=UTC)]),
        ("SELECT spotify_pipeline.disconnect_user(%s)", ["nobody"]),
    ],
)
def test_a_call_for_an_unknown_user_locks_no_row(
    scenario: Scenario, statement: str, values: list[object]
) -> None:
    # Prevents a deadlock: a user registered and forgotten meanwhile is locked in the wrong order.
    url = scenario.pipeline.engine.url.set(drivername="postgresql")
    with scenario.pipeline.engine.connect() as other:
        other.execute(text("LOCK TABLE spotify_pipeline.sync_state IN ACCESS EXCLUSIVE MODE"))
        with psycopg.connect(url.render_as_string(hide_password=False)) as app:
            app.execute("SET LOCAL lock_timeout = '2s'")
            with pytest.raises(psycopg.Error, match="no such user"):
                app.execute(statement, values)


UNFINISHED = ["SELECT spotify_pipeline.forget_user('eve')"]
UNFINISHED += ["SELECT spotify_pipeline.disconnect_user('eve')"]
UNFINISHED += ["SELECT spotify_pipeline.register_user('eve', 'Europe/Oslo')"]


@pytest.mark.parametrize("statement", UNFINISHED)
def test_an_uncommitted_app_transaction_delays_only_its_own_user(
    two: Scenario, statement: str
) -> None:
    def begin_and_leave() -> None:
        app.execute(text(statement))

    with two.pipeline.engine.connect() as app:
        outcomes = two.meanwhile("recently_played", begin_and_leave).sync("eve", "finn")
        assert {o.user_id: (o.result, o.skipped) for o in outcomes} == {
            "eve": ("skipped", BLOCKED),
            "finn": ("synced", None),
        }
        # And a run that starts only now.
        choose(two.pipeline, "run", "eligible", 10)
        with sync_chunk(two.pipeline, "run", 0) as outcomes:
            found = {o.user_id: o.result for o in outcomes}
        assert found["finn"] == "synced"
        assert found.get("eve") in (None, "skipped")
        app.rollback()
    assert two.row(t.sync_state, "eve")["next_due_at"] is None
    assert two.row(t.sync_state, "eve")["consecutive_failures"] == 0


def test_a_request_of_a_user_whom_an_app_keeps_locked_waits_and_others_are_answered(
    two: Scenario,
) -> None:
    two.execute("SELECT spotify_pipeline.request_sync('eve')")
    two.execute("SELECT spotify_pipeline.request_sync('finn')")
    with two.pipeline.engine.begin() as conn:
        keys = [request.dispatch_key for request in sync_requests.assign(conn)]
    with two.pipeline.engine.connect() as app:
        app.execute(text("SELECT spotify_pipeline.disconnect_user('eve')"))
        for key in keys:
            answer_requests(two.pipeline, key, key)
        app.rollback()
    assert {row["user_id"]: row["status"] for row in two.rows(t.sync_requests)} == {
        "eve": "queued",
        "finn": "succeeded",
    }


@contextmanager
def unfinished(scenario: Scenario, statement: str) -> Iterator[Connection]:
    """An app's open transaction with this statement, rolled back at the end of the block."""
    with scenario.pipeline.engine.connect() as app:
        app.execute(text("SET LOCAL ROLE spotify_app"))
        app.execute(text(statement))
        yield app
        app.rollback()


def results(outcomes: list[UserOutcome]) -> dict[str, tuple[str, str | None]]:
    return {o.user_id: (o.result, o.skipped) for o in outcomes}


@pytest.mark.timeout(60)
def test_an_advisory_lock_of_an_app_holds_up_no_refused_connection(two: Scenario) -> None:
    two.sync_well("eve", "finn")
    two.simulator.add_fault(InvalidGrant(), user_id="eve")
    two.execute("UPDATE spotify_pipeline.user_tokens SET access_expires_at = now()")
    # The advisory lock of earlier versions.
    with unfinished(two, "SELECT pg_advisory_xact_lock(x'53504F54524546'::bigint)"):
        outcomes = {o.user_id: o.error_code for o in two.sync("eve", "finn")}
    assert outcomes == {"eve": "RECONNECT", "finn": None}
    assert two.row(t.users, "eve")["connection"] == "needs_reauth"


REQUEST = "SELECT * FROM spotify_pipeline.request_sync('eve')"


@pytest.mark.timeout(60)
def test_a_request_that_is_not_committed_holds_up_no_change_of_connection_states(
    two: Scenario,
) -> None:
    two.execute(
        "UPDATE spotify_pipeline.user_tokens"
        " SET authorized_at = now() - interval '5 months 20 days'"
    )
    with unfinished(two, REQUEST):
        run_maintenance(two.pipeline)
        assert two.row(t.users, "eve")["connection"] == "connected"
        assert two.row(t.users, "finn")["connection"] == "expiring"
        assert results(two.sync("finn")) == {"finn": ("synced", None)}
    run_maintenance(two.pipeline)
    assert two.row(t.users, "eve")["connection"] == "expiring"


@pytest.mark.timeout(60)
def test_a_request_that_is_not_committed_holds_up_no_refused_connection(two: Scenario) -> None:
    two.sync_well("eve", "finn")
    for user_id in ("eve", "finn"):
        two.simulator.add_fault(InvalidGrant(), user_id=user_id)
    two.execute("UPDATE spotify_pipeline.user_tokens SET access_expires_at = now()")
    with unfinished(two, REQUEST):
        outcomes = {o.user_id: o.error_code for o in two.sync("eve", "finn")}
    assert outcomes == {"eve": "SPOTIFY_UNAVAILABLE", "finn": "RECONNECT"}
    assert two.row(t.users, "eve")["connection"] == "connected"
    assert two.row(t.users, "finn")["connection"] == "needs_reauth"


@pytest.mark.timeout(60)
def test_a_token_of_a_suspect_user_is_stored_while_a_request_is_not_committed(
    two: Scenario,
) -> None:
    two.sync_well("eve", "finn")
    two.execute("UPDATE spotify_pipeline.users SET connection = 'suspect'")
    two.execute(
        "UPDATE spotify_pipeline.user_tokens"
        " SET access_expires_at = now(), last_refreshed_at = now() - interval '2 hours'"
    )
    before = two.row(t.user_tokens, "eve")["last_refreshed_at"]
    with unfinished(two, REQUEST):
        assert results(two.sync("eve", "finn"))["finn"] == ("synced", None)
    assert two.row(t.user_tokens, "eve")["access_expires_at"] > before + timedelta(hours=2.5)
    assert two.row(t.users, "eve")["connection"] == "suspect"
    assert two.row(t.users, "finn")["connection"] == "connected"


@pytest.mark.timeout(60)
def test_a_user_whose_account_cannot_be_stored_is_skipped_without_delaying_others(
    two: Scenario,
) -> None:
    began = time.monotonic()
    with unfinished(two, REQUEST):
        assert results(two.sync("eve", "finn")) == {
            "eve": ("skipped", BLOCKED),
            "finn": ("synced", None),
        }
    assert time.monotonic() - began < SAVE_SECONDS / 2
    assert two.row(t.sync_state, "eve")["consecutive_failures"] == 0
    assert two.rows(t.plays, "eve") == []
    two.sync_well("eve")


@pytest.mark.timeout(60)
def test_a_user_whose_account_is_known_reconnects_while_a_request_is_not_committed(
    two: Scenario,
) -> None:
    two.sync_well("eve", "finn")
    two.hand_over("eve", two.simulator.reconnect("eve").refresh_token)
    with unfinished(two, REQUEST):
        two.sync_well("eve", "finn")
