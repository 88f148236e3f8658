"""Dump, restore, sync: nothing is lost and nothing comes twice."""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import URL

from spotify_pipeline.storage.postgres.dump import dump_schema, restore_schema
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.postgres.schema import check_revision, init_db
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario


def test_a_dump_restored_elsewhere_is_the_same_and_syncs_on(
    scenario: Scenario,
    database: URL,
    empty_database: URL,
    open_another: Callable[..., Scenario],
    tmp_path: Path,
) -> None:
    for user_id in ("anna", "ben"):
        scenario.connect(user_id, "Europe/Oslo", kind="light")
    scenario.sync_well("anna", "ben")
    before = scenario.dump()
    file = tmp_path / "spotify_pipeline.dump"
    dump_schema(database, "spotify_pipeline", file)
    restore_schema(empty_database, file)
    engine = make_engine(empty_database)
    check_revision(engine)
    init_db(engine)
    engine.dispose()
    url = empty_database.render_as_string(hide_password=False)
    restored = open_another(SPOTIFY_PIPELINE_DATABASE_URL=url)
    assert restored.dump() == before
    outcomes = restored.sync_well("anna", "ben")
    assert {outcome.new_plays for outcome in outcomes} == {0}
    assert restored.dump("last_refreshed_at", "fetched_at")["plays"] == before["plays"]
