"""An import reads each table a few times, also where Postgres expects to find nothing."""

from datetime import timedelta

from sqlalchemy import Connection, Engine, text

from spotify_pipeline.domain.listening.exported import ExportedTrack
from spotify_pipeline.domain.model import Track
from spotify_pipeline.storage.imports.merge import (
    add_facts,
    complete_imported_plays,
    compute_plays,
    stage_rows,
    staged_line,
)
from spotify_pipeline.storage.imports.receipts import count_fates
from spotify_pipeline.storage.listening.catalogue import save_exported_tracks, save_tracks
from spotify_pipeline_tests.sync.pipeline_fixture import NOON

ROWS, TRACKS = 1_000, 50
MINUTE = timedelta(minutes=1)


def import_rows(conn: Connection, user_id: str) -> None:
    lines = (
        staged_line(0, n, NOON - n * MINUTE, f"t{n % TRACKS}", 1_000, "extended", None)
        for n in range(ROWS)
    )
    stage_rows(conn, lines)
    assert add_facts(conn, user_id, None)
    compute_plays(conn, user_id)
    assert count_fates(conn, None, merged=True)[0] == {"short": ROWS}


def test_the_second_user_who_imports_is_no_slower_than_the_first(engine: Engine) -> None:
    """Statistics of one user's rows say that another one has none: a trap for nested loops."""
    with engine.connect() as conn:
        conn.execute(text("INSERT INTO users (user_id) VALUES ('ada'), ('bob')"))
        save_exported_tracks(
            conn, [ExportedTrack(f"t{n}", f"Song {n}", "Singer", None) for n in range(TRACKS)]
        )
        import_rows(conn, "ada")
        conn.execute(text("ANALYZE imported_plays, plays, imported_tracks, tracks"))
        conn.execute(text("DROP TABLE pg_temp.staged_rows, pg_temp.incoming"))
        import_rows(conn, "bob")
        shown = [Track(f"t{n}", f"Song {n}", 200_000, ("singer",)) for n in range(TRACKS)]
        save_tracks(conn, shown)
        assert len(complete_imported_plays(conn, ["bob"])) == ROWS
        # The tables with a row per play.
        counts = conn.execute(
            text(
                "SELECT relname, seq_scan + coalesce(idx_scan, 0) FROM pg_stat_xact_user_tables"
                " WHERE relname IN ('plays', 'imported_plays', 'staged_rows', 'incoming',"
                " 'desired')"
            )
        )
        scans = {row[0]: row[1] for row in counts}
        assert scans["plays"]
        assert max(scans.values()) < TRACKS, scans
        conn.rollback()
