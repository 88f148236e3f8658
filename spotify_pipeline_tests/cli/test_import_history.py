"""`spotify-pipeline import-history`."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from spotify_pipeline.defs.in_process import opened_instance
from spotify_pipeline.settings import load_settings
from spotify_pipeline_tests.cli.conftest import Run
from spotify_pipeline_tests.exports.rows import write
from spotify_pipeline_tests.sync.imports.export_files import extended_row

OLD = datetime(2024, 5, 1, 12, tzinfo=UTC)


def reported() -> list[dg.EventLogRecord]:
    """The materializations of the asset, oldest first."""
    with opened_instance(load_settings()) as instance:
        key = dg.AssetKey("imported_history")
        return [*instance.fetch_materializations(key, limit=1_000, ascending=True).records]


def test_an_import_prints_its_receipt_and_a_dry_run_prints_the_same(
    run: Run, tmp_path: Path
) -> None:
    run("init-db")
    run("users", "add", "ada", "--timezone", "UTC", "--refresh-token-stdin", stdin="token")
    before = len(reported())
    rows = [extended_row(OLD + n * timedelta(hours=1), n % 3, 20_000 * n) for n in range(5)]
    path = str(write(tmp_path / "endsong_0.json", *rows, {"ts": "x", "ms_played": 1}))
    dry = run("import-history", "ada", path, "--dry-run", "--json")
    assert dry.exit_code == 0, dry.output
    receipt = json.loads(dry.stdout)
    found = {fate: number for fate, number in receipt["fates"].items() if number}
    assert found == {"new": 3, "short": 1, "silent": 1, "malformed": 1}
    assert receipt["files"][0]["malformed_rows"] == [
        {"index": 5, "reason": "ts is not a time since 2006"}
    ]
    shown = run("import-history", "ada", path)
    assert shown.exit_code == 0, shown.output
    assert "The history is stored." in shown.output
    assert "endsong_0.json, row 5: ts is not a time since 2006." in shown.output
    again = json.loads(run("import-history", "ada", path, "--json").stdout)
    assert (again["fates"]["known"], again["fates"]["new"]) == (4, 0)
    # Other tests report to the same Dagster.
    events = reported()[before:]
    assert [event.partition_key for event in events] == ["ada", "ada"]
    metadata = events[0].asset_materialization.metadata
    assert (metadata["new"].value, metadata["rows_read"].value) == (3, 6)
    assert json.loads(dry.stdout)["rows_read"] == again["rows_read"] == 6


def test_bad_input_is_one_sentence_and_exit_code_2(run: Run, tmp_path: Path) -> None:
    run("init-db")
    unknown = run("import-history", "nobody", str(tmp_path))
    assert (unknown.exit_code, unknown.output.count("\n")) == (2, 1), unknown.output
    run("users", "add", "ada", "--timezone", "UTC", "--refresh-token-stdin", stdin="token")
    (tmp_path / "Userdata.json").write_text("{}")
    for path in (tmp_path / "missing.zip", tmp_path / "Userdata.json"):
        refused = run("import-history", "ada", str(path))
        assert (refused.exit_code, refused.output.count("\n")) == (2, 1), refused.output
        assert path.name in refused.output
