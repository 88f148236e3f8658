"""A run over many users: which users it includes, its chunks, its outcomes."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from spotify_pipeline.domain.outcome import RECENTLY_PLAYED, STEPS, UserOutcome
from spotify_pipeline.simulator.faults.refusals import ServerError
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.users.queries import select_users
from spotify_pipeline.storage.work import sync_runs
from spotify_pipeline.storage.work.leases import leased
from spotify_pipeline.storage.work.sync_runs import RunTotals
from spotify_pipeline.sync.runs import choose, report, sync_chunk
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario

DAY = timedelta(days=1)


def enlist(scenario: Scenario, run_id: str, user_ids: Sequence[str]) -> None:
    with scenario.pipeline.engine.begin() as conn:
        sync_runs.enlist(conn, run_id, user_ids)


def synced_chunk(
    scenario: Scenario, run_id: str, *steps: Sequence[str], scheduled: bool = False
) -> list[UserOutcome]:
    """The outcome of the first chunk, with all its events."""
    with sync_chunk(scenario.pipeline, run_id, 0, *steps, scheduled=scheduled) as outcomes:
        return outcomes


def chunks(scenario: Scenario, run_id: str) -> list[list[str]]:
    """The users of each chunk."""
    with scenario.pipeline.engine.connect() as conn:
        numbers = range(sync_runs.count_chunks(conn, run_id))
        return [sync_runs.users_left(conn, run_id, number) for number in numbers]


def add_users(scenario: Scenario, *user_ids: str, connection: str = "connected") -> None:
    for user_id in user_ids:
        scenario.execute(
            "INSERT INTO spotify_pipeline.users (user_id, connection) VALUES (:u, :c)",
            u=user_id,
            c=connection,
        )


def selected(scenario: Scenario, selection: str) -> list[str]:
    with scenario.pipeline.engine.connect() as conn:
        return select_users(conn, selection, scenario.clock())


def played(scenario: Scenario, user_id: str, ago: timedelta, source: str = "api") -> None:
    scenario.execute(
        "INSERT INTO spotify_pipeline.tracks (spotify_id, name, duration_ms, artist_ids)"
        " VALUES ('t', 't', 1, '{a}') ON CONFLICT DO NOTHING"
    )
    scenario.execute(
        "INSERT INTO spotify_pipeline.plays (user_id, played_at, track_id, source)"
        " VALUES (:u, :at, 't', :source)",
        u=user_id,
        at=scenario.clock() - ago,
        source=source,
    )


def authorized(scenario: Scenario, user_id: str, ago: timedelta) -> None:
    scenario.execute(
        "INSERT INTO spotify_pipeline.user_tokens"
        " (user_id, client_id, sealed_refresh_token, key_id, authorized_at)"
        " VALUES (:u, 'app', 'sealed', 'key', :at)",
        u=user_id,
        at=scenario.clock() - ago,
    )


def test_active_users_are_eligible_and_were_active_within_seven_days(scenario: Scenario) -> None:
    add_users(scenario, "played", "played long ago", "imported", "new", "old", "asked", "failed")
    add_users(scenario, "expiring", connection="expiring")
    add_users(scenario, "suspect", connection="suspect")
    add_users(scenario, "refused", connection="needs_reauth")
    add_users(scenario, "left", connection="disconnected")
    for user_id in ("played", "expiring", "suspect", "refused", "left"):
        played(scenario, user_id, 7 * DAY)
    played(scenario, "played long ago", 7 * DAY + timedelta(seconds=1))
    played(scenario, "imported", DAY, source="export")
    authorized(scenario, "new", 6 * DAY)
    authorized(scenario, "old", 8 * DAY)
    for user_id, status, code in (("asked", "succeeded", None), ("failed", "failed", "CRASHED")):
        scenario.execute(
            "INSERT INTO spotify_pipeline.sync_requests (user_id) VALUES (:u)", u=user_id
        )
        scenario.execute(
            "UPDATE spotify_pipeline.sync_requests SET status = :s, error_code = :c,"
            " finished_at = :at WHERE user_id = :u",
            u=user_id,
            s=status,
            c=code,
            at=NOON - 6 * DAY,
        )
    assert selected(scenario, "active") == ["asked", "expiring", "new", "played", "suspect"]
    connected = {"played", "played long ago", "imported", "new", "old", "asked", "failed"}
    assert set(selected(scenario, "eligible")) == connected | {"expiring", "suspect"}


def test_due_users_are_eligible_and_past_their_due_time(scenario: Scenario) -> None:
    add_users(scenario, "never", "now", "later")
    add_users(scenario, "refused", connection="needs_reauth")
    for user_id, minutes in (("now", 0), ("later", 1), ("refused", -1)):
        scenario.execute(
            "UPDATE spotify_pipeline.sync_state SET next_due_at = :at WHERE user_id = :u",
            u=user_id,
            at=NOON + timedelta(minutes=minutes),
        )
    assert selected(scenario, "due") == ["never", "now"]


def test_every_member_is_in_exactly_one_chunk_and_no_chunk_is_too_large(scenario: Scenario) -> None:
    names = [f"user {number:02}" for number in range(23)]
    add_users(scenario, *names)
    with scenario.pipeline.engine.begin() as conn:
        sync_runs.enlist(conn, "run", names[:20], 10)
        # A second call adds those who are new, in chunks of their own.
        sync_runs.enlist(conn, "run", names, 10)
    assert choose(scenario.pipeline, "run", "enlisted", 10) == 3
    assert chunks(scenario, "run") == [names[:10], names[10:20], names[20:]]
    assert choose(scenario.pipeline, "again", "enlisted", 8, ["none", "run"]) == 3
    assert chunks(scenario, "again") == [names[:8], names[8:16], names[16:]]
    assert choose(scenario.pipeline, "an empty run", "active", 10) == 0


def test_a_run_begins_with_the_users_whom_the_run_before_did_not_come_to(
    scenario: Scenario,
) -> None:
    """A night that a limit of time or calls ends would otherwise always serve the same users."""
    names = ["anna", "ben", "cleo", "dora"]
    for user_id in names:
        scenario.connect(user_id, kind="light")
    assert choose(scenario.pipeline, "night", "active", 2) == 2
    synced_chunk(scenario, "night")
    scenario.at(NOON + DAY)
    choose(scenario.pipeline, "next night", "active", 2)
    assert chunks(scenario, "next night") == [["cleo", "dora"], ["anna", "ben"]]
    # Polls take the longest due first, whenever their top lists came.
    for user_id, late in {"ben": DAY, "cleo": timedelta(0), "dora": timedelta(0)}.items():
        scenario.execute(
            "UPDATE spotify_pipeline.sync_state SET next_due_at = :at WHERE user_id = :u",
            at=NOON - late,
            u=user_id,
        )
    choose(scenario.pipeline, "poll", "due", 1)
    assert chunks(scenario, "poll") == [["ben"], ["cleo"], ["dora"], ["anna"]]


def test_a_run_may_have_more_users_than_a_statement_takes_parameters(
    scenario: Scenario,
) -> None:
    add_users(scenario, "anna", "ben")
    enlist(scenario, "run", [*(f"nobody-{n}" for n in range(70_000)), "anna", "ben"])
    assert [row["user_id"] for row in scenario.rows(t.sync_run_users)] == ["anna", "ben"]


def test_a_chunk_records_an_outcome_per_user_and_the_report_counts_them(scenario: Scenario) -> None:
    for user_id in ("anna", "ben", "busy", "cleo", "gone"):
        scenario.connect(user_id, kind="light")
    scenario.simulator.add_fault(ServerError(), user_id="ben")
    assert choose(scenario.pipeline, "run", "eligible", 100) == 1
    enlist(scenario, "another run", ["anna"])
    leaving = scenario.meanwhile("recently_played", lambda: scenario.forget("gone"))
    with leased(scenario.pipeline.engine, ["busy"]):
        outcomes = synced_chunk(leaving, "run")
    noted = {
        row["user_id"]: row for row in scenario.rows(t.sync_run_users) if row["run_id"] == "run"
    }
    assert {user_id: (row["outcome"], row["error_code"]) for user_id, row in noted.items()} == {
        "anna": ("synced", None),
        "ben": ("failed", "SPOTIFY_UNAVAILABLE"),
        "busy": ("skipped", None),
        "cleo": ("synced", None),
    }
    new_plays = {outcome.user_id: outcome.new_plays for outcome in outcomes}
    assert {user_id: row["new_plays"] for user_id, row in noted.items()} == {
        user_id: count for user_id, count in new_plays.items() if user_id != "gone"
    }
    assert noted["anna"]["seconds"] > 0
    found = report(scenario.pipeline, "run")
    assert found == RunTotals(
        by_outcome={"synced": 2, "failed": 1, "skipped": 1},
        by_code={"SPOTIFY_UNAVAILABLE": 1},
        new_plays=sum(new_plays.values()),
        api_calls=len(scenario.calls()) - len(scenario.calls("token")),
        throttled_seconds=0.0,
        slowest_chunk=0,
        slowest_chunk_seconds=found.slowest_chunk_seconds,
    )
    assert found.slowest_chunk_seconds > 0
    assert report(scenario.pipeline, "another run").by_outcome == {"unknown": 1}


def test_a_scheduled_run_does_not_fetch_again_what_it_just_fetched(scenario: Scenario) -> None:
    scenario.connect("anna")
    scenario.sync_well("anna")
    asked: dict[str, list[str]] = {}
    for name, later in {
        "9 minutes": timedelta(minutes=9, seconds=59),
        "10 minutes": timedelta(minutes=10),
        "20 hours": timedelta(hours=20),
    }.items():
        scenario.simulator.forget_calls()
        scenario.at(NOON + later)
        before = scenario.row(t.sync_state, "anna")
        choose(scenario.pipeline, name, "eligible", 100)
        (outcome,) = synced_chunk(scenario, name, scheduled=True)
        assert outcome.result == "synced"
        asked[name] = sorted({call.endpoint for call in scenario.calls()})
        if not asked[name]:
            # Skipped steps are not recorded as fetched, and their due time stays.
            after = scenario.row(t.sync_state, "anna")
            for column in ("plays_fetched_at", "tops_fetched_at", "next_due_at"):
                assert after[column] == before[column], column
    assert asked == {
        "9 minutes": [],
        "10 minutes": ["recently_played"],
        "20 hours": ["recently_played", "top_artists", "top_tracks"],
    }
    # A request is always synced, never answered with an earlier sync.
    scenario.simulator.forget_calls()
    scenario.sync_well("anna")
    assert len(scenario.calls()) == 7


def test_a_chunk_of_selected_steps_asks_only_for_those(scenario: Scenario) -> None:
    scenario.connect("anna", kind="light")
    choose(scenario.pipeline, "run", "eligible", 100)
    (outcome,) = synced_chunk(scenario, "run", [RECENTLY_PLAYED])
    assert set(outcome.done) == {RECENTLY_PLAYED} < set(STEPS)
    assert [call.endpoint for call in scenario.calls()] == ["token", "me", "recently_played"]


def test_a_second_try_of_a_chunk_syncs_the_users_left_and_emits_all_of_them(
    scenario: Scenario,
) -> None:
    """The first process died while it emitted the outcomes; all data of the chunk was stored."""
    for user_id in ("anna", "ben"):
        scenario.connect(user_id, kind="light")
    choose(scenario.pipeline, "run", "eligible", 100)
    with suppress(ConnectionError), sync_chunk(scenario.pipeline, "run", 0) as outcomes:
        assert [outcome.user_id for outcome in outcomes] == ["anna", "ben"]
        raise ConnectionError
    plays = scenario.rows(t.plays)
    assert {row["outcome"] for row in scenario.rows(t.sync_run_users)} == {None}
    again = synced_chunk(scenario, "run")
    assert {outcome.user_id: set(outcome.changes) for outcome in again} == {
        "anna": set(STEPS),
        "ben": set(STEPS),
    }
    assert scenario.rows(t.plays) == plays
    # No user is left.
    scenario.simulator.forget_calls()
    assert synced_chunk(scenario, "run") == []
    assert scenario.calls() == []


def test_a_user_whose_failures_end_is_counted_as_recovered(scenario: Scenario) -> None:
    for user_id in ("anna", "ben", "cleo"):
        scenario.connect(user_id, kind="light")
    faults = [scenario.simulator.add_fault(ServerError(), user_id=u) for u in ("anna", "ben")]
    choose(scenario.pipeline, "first", "eligible", 100)
    synced_chunk(scenario, "first")
    scenario.simulator.clear_faults(faults[0])
    choose(scenario.pipeline, "second", "eligible", 100)
    outcomes = {outcome.user_id: outcome for outcome in synced_chunk(scenario, "second")}
    assert {user_id: one.recovered for user_id, one in outcomes.items()} == {
        "anna": True,
        "ben": False,
        "cleo": False,
    }
