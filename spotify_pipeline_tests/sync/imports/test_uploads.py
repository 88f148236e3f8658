"""A history that an app hands over has the same outcome as an import of its files."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, update

from spotify_pipeline import app
from spotify_pipeline.errors import WorkFailed
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.imports.uploads import closed_uploads, fail_upload
from spotify_pipeline.storage.work.leases import leased
from spotify_pipeline.sync.admin.maintenance import run_maintenance
from spotify_pipeline.sync.import_history import import_upload
from spotify_pipeline_tests.defs.definitions_fixture import crashing
from spotify_pipeline_tests.exports.rows import extended
from spotify_pipeline_tests.sync.imports.export_files import (
    account_row,
    extended_row,
    hand_over,
    run_import,
)
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario

# Of the statements at which a run dies.
STEP = 1 if "SOAK" in os.environ else 23
A_MINUTE, A_DAY = timedelta(minutes=1), timedelta(days=1)
OLD = datetime(2024, 5, 1, 12, 0, 7, tzinfo=UTC)
LIFE = [
    extended_row(OLD, 1),
    extended_row(OLD, 1),
    extended_row(OLD + A_MINUTE, 2, 4_000),
    extended_row(OLD + 2 * A_MINUTE, 3, 0),
    extended(ts="yesterday"),
    extended_row(OLD + 3 * A_MINUTE, 4, spotify_track_uri=None, episode_name="Talk"),
    extended_row(NOON - A_DAY, 5, offline=True, offline_timestamp=int(NOON.timestamp()) - 90_000),
    extended_row(NOON + A_DAY, 6),
]
ACCOUNT = [account_row(OLD, 1), account_row(OLD + A_DAY, 7)]
# Differ between any two imports.
OF_THE_IMPORT = ("computed_at", "id", "import_id", "requested_by", "started_at", "finished_at")


@pytest.fixture
def ada(scenario: Scenario) -> str:
    with scenario.pipeline.engine.begin() as conn:
        app.register_user(conn, "ada", "Europe/Oslo")
    return "ada"


def test_an_upload_gives_the_tables_and_the_receipt_of_an_import_of_its_files(
    scenario: Scenario, ada: str, tmp_path: Path
) -> None:
    receipt = run_import(scenario.pipeline, tmp_path, LIFE, ACCOUNT)
    by_command = scenario.dump(*OF_THE_IMPORT)
    scenario.forget(ada)
    with scenario.pipeline.engine.begin() as conn:
        app.register_user(conn, ada, "Europe/Oslo")
    hand_over(scenario.pipeline, tmp_path, LIFE, ACCOUNT)
    uploaded, outcomes = import_upload(scenario.pipeline, ada)
    assert uploaded is not None
    assert (uploaded.fates, uploaded.rows_read) == (receipt.fates, receipt.rows_read)
    assert [outcome.result for outcome in outcomes] == ["synced"]
    by_app = scenario.dump(*OF_THE_IMPORT)
    for table in by_command.keys() - {"forgotten", "users", "profiles"}:
        assert by_app[table] == by_command[table], table
    with scenario.pipeline.engine.connect() as conn:
        (seen,) = app.history_receipts(conn, ada)
    assert (seen.status, seen.error_message) == ("succeeded", None)
    assert seen.rows_read == sum(seen.fates.values()) == receipt.rows_read
    assert dict(seen.fates) == {fate: n for fate, n in receipt.fates.items() if n}
    assert [file["malformed"] for file in seen.files] == [[[4, "ts is not a time since 2006"]], []]
    # Again, as a run that is repeated after it had finished.
    before = scenario.dump("computed_at")
    again, outcomes = import_upload(scenario.pipeline, ada)
    assert (again, outcomes) == (uploaded, [])
    assert scenario.dump("computed_at") == before


def test_a_run_that_dies_at_any_statement_is_completed_by_the_next(
    scenario: Scenario, ada: str, tmp_path: Path
) -> None:
    hand_over(scenario.pipeline, tmp_path, LIFE, ACCOUNT)
    import_upload(scenario.pipeline, ada)
    whole = scenario.dump(*OF_THE_IMPORT)
    statements, died = 0, True
    while died:
        scenario.execute("DELETE FROM spotify_pipeline.users")
        with scenario.pipeline.engine.begin() as conn:
            app.register_user(conn, ada, "Europe/Oslo")
        hand_over(scenario.pipeline, tmp_path, LIFE, ACCOUNT)
        with crashing(statements) as crashed:
            import_upload(scenario.pipeline, ada)
        died = crashed[0]
        # The lease of a dead process ends by itself.
        scenario.execute(
            "UPDATE spotify_pipeline.sync_state SET lease_id = NULL, lease_until = NULL"
        )
        # All of it or nothing.
        assert len(scenario.rows(t.imported_plays)) in (0, len(whole["imported_plays"]))
        import_upload(scenario.pipeline, ada)
        after = scenario.dump(*OF_THE_IMPORT)
        for table in whole.keys() - {"forgotten", "users", "profiles"}:
            assert after[table] == whole[table], (table, statements)
        statements += STEP
    assert statements > 40


def test_rows_that_end_in_the_future_by_the_pipelines_clock_are_counted_and_not_stored(
    scenario: Scenario, ada: str, tmp_path: Path
) -> None:
    scenario.at(NOON + 2 * A_DAY)
    hand_over(scenario.pipeline, tmp_path, LIFE)
    scenario.at(NOON)
    receipt, _ = import_upload(scenario.pipeline, ada)
    assert receipt is not None
    assert (receipt.fates["future"], sum(receipt.fates.values())) == (1, receipt.rows_read)
    assert max(row["covered_to"] for row in scenario.rows(t.coverage)) <= NOON + 5 * A_MINUTE


def test_an_upload_of_a_user_who_is_being_synced_stays_closed(
    scenario: Scenario, ada: str, tmp_path: Path
) -> None:
    hand_over(scenario.pipeline, tmp_path, LIFE)
    with leased(scenario.pipeline.engine, [ada]), pytest.raises(WorkFailed, match="going on"):
        import_upload(scenario.pipeline, ada, wait_seconds=0)
    with scenario.pipeline.engine.begin() as conn:
        (upload,) = closed_uploads(conn)
        fail_upload(conn, upload, "Upload it again.")
        fail_upload(conn, upload, "Upload it again.")
        (seen,) = app.history_receipts(conn, ada)
        assert (seen.status, seen.error_message, seen.rows_read) == (
            "failed",
            "Upload it again.",
            0,
        )
        assert closed_uploads(conn) == []
    assert scenario.rows(t.history_import_batches) == []
    assert import_upload(scenario.pipeline, ada) == (None, [])


def test_an_upload_that_was_never_closed_is_deleted_after_a_day(
    scenario: Scenario, ada: str, tmp_path: Path
) -> None:
    hand_over(scenario.pipeline, tmp_path, LIFE)
    with scenario.pipeline.engine.begin() as conn:
        app.register_user(conn, "eve")
        app.open_history_import(conn, "eve")
    for days, left in ((0.9, ["ada", "eve"]), (1.1, ["ada"])):
        with scenario.pipeline.engine.begin() as conn:
            opened = func.now() - timedelta(days=days)
            conn.execute(update(t.history_imports).values(started_at=opened))
        run_maintenance(scenario.pipeline)
        assert [row["user_id"] for row in scenario.rows(t.history_imports)] == left
