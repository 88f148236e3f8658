"""Hourly maintenance: connection states, stale days, retention."""

from datetime import timedelta

from sqlalchemy import func, insert, update

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.work.retention import delete_old_logs
from spotify_pipeline.storage.work.sync_runs import begin_chunk, enlist
from spotify_pipeline.sync.admin.maintenance import run_maintenance
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario


def age(scenario: Scenario, table: object, column: str, days: int) -> None:
    with scenario.pipeline.engine.begin() as conn:
        conn.execute(update(table).values({column: func.now() - timedelta(days=days)}))


def test_old_logs_go_and_plays_stay(scenario: Scenario) -> None:
    scenario.connect("anna")
    scenario.sync_well("anna")
    with scenario.pipeline.engine.begin() as conn:
        enlist(conn, "an-old-run", ["anna"])
        conn.execute(
            insert(t.fetch_log).values(
                user_id="anna", fetched_at=func.now(), items=0, new_plays=0, overlapped=False
            )
        )
    age(scenario, t.sync_run_users, "created_at", 31)
    plays = scenario.rows(t.plays)
    assert (
        run_maintenance(scenario.pipeline)["log rows deleted"] == 2
    )  # the run's row, and the page at NOON
    assert len(scenario.rows(t.fetch_log)) == 1
    assert scenario.rows(t.sync_run_users) == []
    assert scenario.rows(t.plays) == plays


def test_logs_of_thirty_days_are_kept(scenario: Scenario) -> None:
    scenario.connect("anna")
    with scenario.pipeline.engine.begin() as conn:
        enlist(conn, "a-run", ["anna"])
    age(scenario, t.sync_run_users, "created_at", 29)
    assert run_maintenance(scenario.pipeline)["log rows deleted"] == 0


def test_the_latest_closed_request_of_each_kind_is_kept(scenario: Scenario) -> None:
    """The cooldown counts from the last success, the status shows the last answer."""
    scenario.connect("anna")
    answers = ("failed", "succeeded", "failed", "succeeded", "failed", "failed")
    for status in answers:
        scenario.execute("INSERT INTO spotify_pipeline.sync_requests (user_id) VALUES ('anna')")
        scenario.execute(
            "UPDATE spotify_pipeline.sync_requests SET status = :s, error_code = :c,"
            " finished_at = now() - interval '31 days' WHERE status = 'queued'",
            s=status,
            c="CRASHED" if status == "failed" else None,
        )
    before = scenario.rows(t.sync_requests)
    # Two at a time, as many batches as it needs.
    assert delete_old_logs(scenario.pipeline.engine, timedelta(days=30), batch=2) == 4
    assert scenario.rows(t.sync_requests) == [before[3], before[5]]


def test_logs_go_in_batches(scenario: Scenario) -> None:
    names = [f"user {number}" for number in range(7)]
    for name in names:
        scenario.execute("INSERT INTO spotify_pipeline.users (user_id) VALUES (:u)", u=name)
    with scenario.pipeline.engine.begin() as conn:
        enlist(conn, "an-old-run", names)
        begin_chunk(conn, "an-old-run", 0)
    age(scenario, t.sync_run_users, "created_at", 31)
    age(scenario, t.sync_run_chunks, "started_at", 31)
    assert delete_old_logs(scenario.pipeline.engine, timedelta(days=40), batch=3) == 0
    assert delete_old_logs(scenario.pipeline.engine, timedelta(days=30), batch=3) == 8


def test_days_of_a_zone_that_changed_are_rebuilt_without_a_call(scenario: Scenario) -> None:
    scenario.connect("anna", "Pacific/Auckland")
    scenario.sync_well("anna")
    scenario.move("anna", "America/Los_Angeles")
    calls = len(scenario.calls())
    assert run_maintenance(scenario.pipeline)["users rebuilt"] == 1
    assert len(scenario.calls()) == calls
    (user,) = scenario.rows(t.users)
    assert user["days_stale"] is False
    # Noon of the world is the small hours there: nothing can lie on a later date.
    assert max(day["date"] for day in scenario.rows(t.daily_listening)) <= NOON.date()


def test_connections_turn_expiring_and_dead_tokens_go(scenario: Scenario) -> None:
    scenario.connect("anna")
    scenario.connect("ben")
    with scenario.pipeline.engine.begin() as conn:
        k = t.user_tokens
        for user_id, days in (("anna", 20), ("ben", -31)):
            ends = func.now() + timedelta(days=days)
            conn.execute(update(k).where(k.c.user_id == user_id).values(expires_at=ends))
    assert run_maintenance(scenario.pipeline)["dead tokens deleted"] == 1
    connections = {user["user_id"]: user["connection"] for user in scenario.rows(t.users)}
    assert connections == {"anna": "expiring", "ben": "disconnected"}
