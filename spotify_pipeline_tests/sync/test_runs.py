"""A run over many users: who belongs to it, its chunks, its outcomes."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from spotify_pipeline.domain.steps import RECENTLY_PLAYED, STEPS
from spotify_pipeline.simulator.faults.refusals import ServerError
from spotify_pipeline.storage import runs
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.leases import leased
from spotify_pipeline.storage.people import select_users
from spotify_pipeline.storage.runs import RunTotals
from spotify_pipeline.sync.outcome import UserOutcome
from spotify_pipeline.sync.runs import choose, report, sync_chunk
from spotify_pipeline_tests.sync.stage import NOON, Stage

DAY = timedelta(days=1)


def enlist(stage: Stage, run_id: str, user_ids: Sequence[str]) -> None:
    with stage.pipeline.engine.begin() as conn:
        runs.enlist(conn, run_id, user_ids)


def synced_chunk(
    stage: Stage, run_id: str, *steps: Sequence[str], scheduled: bool = False
) -> list[UserOutcome]:
    """What came of the first chunk, told to the end."""
    with sync_chunk(stage.pipeline, run_id, 0, *steps, scheduled=scheduled) as outcomes:
        return outcomes


def add_users(stage: Stage, *user_ids: str, connection: str = "connected") -> None:
    for user_id in user_ids:
        stage.execute(
            "INSERT INTO spotify_pipeline.users (user_id, connection) VALUES (:u, :c)",
            u=user_id,
            c=connection,
        )


def selected(stage: Stage, selection: str) -> list[str]:
    with stage.pipeline.engine.connect() as conn:
        return select_users(conn, selection, stage.clock())


def played(stage: Stage, user_id: str, ago: timedelta, source: str = "api") -> None:
    stage.execute(
        "INSERT INTO spotify_pipeline.tracks (spotify_id, name, duration_ms, artist_ids)"
        " VALUES ('t', 't', 1, '{a}') ON CONFLICT DO NOTHING"
    )
    stage.execute(
        "INSERT INTO spotify_pipeline.plays (user_id, played_at, track_id, source)"
        " VALUES (:u, :at, 't', :source)",
        u=user_id,
        at=stage.clock() - ago,
        source=source,
    )


def authorized(stage: Stage, user_id: str, ago: timedelta) -> None:
    stage.execute(
        "INSERT INTO spotify_pipeline.user_tokens"
        " (user_id, client_id, sealed_refresh_token, key_id, authorized_at)"
        " VALUES (:u, 'app', 'sealed', 'key', :at)",
        u=user_id,
        at=stage.clock() - ago,
    )


def test_active_is_who_can_be_asked_and_was_heard_of_within_seven_days(stage: Stage) -> None:
    add_users(stage, "played", "played long ago", "imported", "new", "old", "asked", "failed")
    add_users(stage, "expiring", connection="expiring")
    add_users(stage, "suspect", connection="suspect")
    add_users(stage, "refused", connection="needs_reauth")
    add_users(stage, "left", connection="disconnected")
    for user_id in ("played", "expiring", "suspect", "refused", "left"):
        played(stage, user_id, 7 * DAY)
    played(stage, "played long ago", 7 * DAY + timedelta(seconds=1))
    played(stage, "imported", DAY, source="export")
    authorized(stage, "new", 6 * DAY)
    authorized(stage, "old", 8 * DAY)
    for user_id, status, code in (("asked", "succeeded", None), ("failed", "failed", "CRASHED")):
        stage.execute("INSERT INTO spotify_pipeline.sync_requests (user_id) VALUES (:u)", u=user_id)
        stage.execute(
            "UPDATE spotify_pipeline.sync_requests SET status = :s, error_code = :c,"
            " finished_at = :at WHERE user_id = :u",
            u=user_id,
            s=status,
            c=code,
            at=NOON - 6 * DAY,
        )
    assert selected(stage, "active") == ["asked", "expiring", "new", "played", "suspect"]
    connected = {"played", "played long ago", "imported", "new", "old", "asked", "failed"}
    assert set(selected(stage, "eligible")) == connected | {"expiring", "suspect"}


def test_due_is_who_can_be_asked_and_whose_time_has_come(stage: Stage) -> None:
    add_users(stage, "never", "now", "later")
    add_users(stage, "refused", connection="needs_reauth")
    for user_id, minutes in (("now", 0), ("later", 1), ("refused", -1)):
        stage.execute(
            "UPDATE spotify_pipeline.sync_state SET next_due_at = :at WHERE user_id = :u",
            u=user_id,
            at=NOON + timedelta(minutes=minutes),
        )
    assert selected(stage, "due") == ["never", "now"]


def test_every_member_is_in_exactly_one_chunk_and_no_chunk_is_too_large(stage: Stage) -> None:
    names = [f"user {number:02}" for number in range(23)]
    add_users(stage, *names)
    enlist(stage, "run", names)
    enlist(stage, "run", names[:5])
    assert choose(stage.pipeline, "run", "enlisted", 10) == 3
    with stage.pipeline.engine.connect() as conn:
        chunks = [runs.users_left(conn, "run", chunk) for chunk in range(4)]
    assert [len(chunk) for chunk in chunks] == [10, 10, 3, 0]
    assert [user_id for chunk in chunks for user_id in chunk] == names
    assert choose(stage.pipeline, "an empty run", "active", 10) == 0


def test_more_users_may_belong_to_a_run_than_a_statement_takes_parameters(stage: Stage) -> None:
    add_users(stage, "anna", "ben")
    enlist(stage, "run", [*(f"nobody-{n}" for n in range(70_000)), "anna", "ben"])
    assert [row["user_id"] for row in stage.rows(t.sync_run_users)] == ["anna", "ben"]


def test_a_chunk_notes_how_it_went_for_each_and_the_report_counts_it(stage: Stage) -> None:
    for user_id in ("anna", "ben", "busy", "cleo", "gone"):
        stage.connect(user_id, person="light")
    stage.simulator.add_fault(ServerError(), user_id="ben")
    assert choose(stage.pipeline, "run", "eligible", 100) == 1
    enlist(stage, "another run", ["anna"])
    leaving = stage.meanwhile("recently_played", lambda: stage.forget("gone"))
    with leased(stage.pipeline.engine, ["busy"]):
        outcomes = synced_chunk(leaving, "run")
    noted = {row["user_id"]: row for row in stage.rows(t.sync_run_users) if row["run_id"] == "run"}
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
    found = report(stage.pipeline, "run")
    assert found == RunTotals(
        by_outcome={"synced": 2, "failed": 1, "skipped": 1},
        by_code={"SPOTIFY_UNAVAILABLE": 1},
        new_plays=sum(new_plays.values()),
        api_calls=len(stage.calls()) - len(stage.calls("token")),
        throttled_seconds=0.0,
        slowest_chunk=0,
        slowest_chunk_seconds=found.slowest_chunk_seconds,
    )
    assert found.slowest_chunk_seconds > 0
    assert report(stage.pipeline, "another run").by_outcome == {"unknown": 1}


def test_a_scheduled_run_does_not_fetch_again_what_it_just_fetched(stage: Stage) -> None:
    stage.connect("anna")
    stage.sync_well("anna")
    asked: dict[str, list[str]] = {}
    for name, later in {
        "9 minutes": timedelta(minutes=9, seconds=59),
        "10 minutes": timedelta(minutes=10),
        "20 hours": timedelta(hours=20),
    }.items():
        stage.simulator.forget_calls()
        stage.at(NOON + later)
        before = stage.row(t.sync_state, "anna")
        choose(stage.pipeline, name, "eligible", 100)
        (outcome,) = synced_chunk(stage, name, scheduled=True)
        assert outcome.result == "synced"
        asked[name] = sorted({call.endpoint for call in stage.calls()})
        if not asked[name]:
            # What was not asked for is not said to have been fetched, and is due when it was.
            after = stage.row(t.sync_state, "anna")
            for column in ("plays_fetched_at", "tops_fetched_at", "next_due_at"):
                assert after[column] == before[column], column
    assert asked == {
        "9 minutes": [],
        "10 minutes": ["recently_played"],
        "20 hours": ["recently_played", "top_artists", "top_tracks"],
    }
    # A person who asks is never told that it was done a while ago.
    stage.simulator.forget_calls()
    stage.sync_well("anna")
    assert len(stage.calls()) == 7


def test_a_chunk_of_selected_steps_asks_only_for_those(stage: Stage) -> None:
    stage.connect("anna", person="light")
    choose(stage.pipeline, "run", "eligible", 100)
    (outcome,) = synced_chunk(stage, "run", [RECENTLY_PLAYED])
    assert set(outcome.done) == {RECENTLY_PLAYED} < set(STEPS)
    assert [call.endpoint for call in stage.calls()] == ["token", "me", "recently_played"]


def test_a_second_try_of_a_chunk_syncs_who_is_left_and_tells_everything_of_them(
    stage: Stage,
) -> None:
    """The first process died while it told what came of it; all data of the chunk was stored."""
    for user_id in ("anna", "ben"):
        stage.connect(user_id, person="light")
    choose(stage.pipeline, "run", "eligible", 100)
    with suppress(ConnectionError), sync_chunk(stage.pipeline, "run", 0) as outcomes:
        assert [outcome.user_id for outcome in outcomes] == ["anna", "ben"]
        raise ConnectionError
    plays = stage.rows(t.plays)
    assert {row["outcome"] for row in stage.rows(t.sync_run_users)} == {None}
    again = synced_chunk(stage, "run")
    assert {outcome.user_id: set(outcome.news) for outcome in again} == {
        "anna": set(STEPS),
        "ben": set(STEPS),
    }
    assert stage.rows(t.plays) == plays
    # Nobody is left.
    stage.simulator.forget_calls()
    assert synced_chunk(stage, "run") == []
    assert stage.calls() == []


def test_who_failed_before_and_no_longer_does_has_recovered(stage: Stage) -> None:
    for user_id in ("anna", "ben", "cleo"):
        stage.connect(user_id, person="light")
    faults = [stage.simulator.add_fault(ServerError(), user_id=u) for u in ("anna", "ben")]
    choose(stage.pipeline, "first", "eligible", 100)
    synced_chunk(stage, "first")
    stage.simulator.clear_faults(faults[0])
    choose(stage.pipeline, "second", "eligible", 100)
    outcomes = {outcome.user_id: outcome for outcome in synced_chunk(stage, "second")}
    assert {user_id: one.recovered for user_id, one in outcomes.items()} == {
        "anna": True,
        "ben": False,
        "cleo": False,
    }
