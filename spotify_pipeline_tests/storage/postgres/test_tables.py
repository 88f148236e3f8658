"""The rules that the tables enforce, whichever program writes."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Table, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.storage.rows import NOON, add_track, add_user, cause, request_sync

HOUR = timedelta(hours=1)

ARTIST = {"spotify_id": "a", "name": "A"}
TRACK = {"spotify_id": "t", "name": "T", "duration_ms": 1, "artist_ids": ["a"]}
PLAY = {"user_id": "ada", "played_at": NOON, "track_id": "song", "source": "api"}
RESTAMPED = {
    "user_id": "ada",
    "shown_at": NOON - HOUR,
    "shown_track_id": "t",
    "played_at": NOON,
    "track_id": "song",
    "noticed_at": NOON,
}
TOKEN = {
    "user_id": "ada",
    "client_id": "app",
    "sealed_refresh_token": b"sealed",
    "key_id": "k1",
    "authorized_at": NOON,
}
COVER = {"user_id": "ada", "covered_from": NOON, "covered_to": NOON + HOUR}
FETCH = {"user_id": "ada", "fetched_at": NOON, "items": 50, "new_plays": 3, "overlapped": True}
GAP = {"user_id": "ada", "gap_start": NOON, "gap_end": NOON + HOUR, "detected_at": NOON}
DAY = {
    "user_id": "ada",
    "date": NOON.date(),
    "minutes": 3,
    "listened_ms": 200_000,
    "plays": 1,
    "unique_tracks": 1,
    "unique_artists": 1,
}
TOP_ARTIST = {
    "user_id": "ada",
    "time_range": "short_term",
    "rank": 1,
    "spotify_id": "a",
    "name": "A",
}
TOP_TRACK = TOP_ARTIST | {"artist_name": "A"}
TOP_LIST = {
    "user_id": "ada",
    "kind": "artists",
    "time_range": "short_term",
    "fetched_at": NOON,
}
VERSION = {
    "user_id": "ada",
    "kind": "artists",
    "time_range": "short_term",
    "spotify_ids": ["a"],
    "valid_from": NOON,
}
PERSONALITY = {
    "user_id": "ada",
    "window_start": NOON.date(),
    "window_end": NOON.date(),
    "play_count": 0,
    "definition_version": 1,
}
MONTH = PERSONALITY | {
    "month": NOON.date().replace(day=1),
    "reasons": {},
    "computed_at": NOON,
}
RUN_USER = {"run_id": "run", "user_id": "ada"}
IMPORT = {"user_id": "ada", "status": "open"}
IMPORT_FILE = {
    "import_id": select(func.max(t.history_imports.c.id)).scalar_subquery(),
    "number": 0,
    "user_id": "ada",
    "name": "endsong_0.json",
    "source": "extended",
    "rows_read": 1,
    "new": 1,
}
IMPORT_BATCH = {
    "import_id": select(func.max(t.history_imports.c.id)).scalar_subquery(),
    "number": 0,
    "file": 0,
    "source": "extended",
    "row_count": 1,
    "octets": 1,
    "first_at": NOON,
    "last_at": NOON,
    "content": [],
}
IMPORTED_PLAY = {
    "user_id": "ada",
    "ended_at": NOON,
    "track_id": "song",
    "ms_played": 1,
    "source": "extended",
}
IMPORTED_TRACK = {"user_id": "ada", "track_id": "song", "artist_id": "artist"}
PROFILE = {"user_id": "ada", "name": "ada"}
KEY = {"key_id": "k1", "public_key": bytes(32)}

ROWS: list[tuple[Table, dict[str, Any]]] = [
    (t.artists, ARTIST),
    (t.tracks, TRACK),
    (t.plays, PLAY),
    (t.user_tokens, TOKEN),
    (t.coverage, COVER),
    (t.fetch_log, FETCH),
    (t.restamped_plays, RESTAMPED),
    (t.listening_gaps, GAP),
    (t.daily_listening, DAY),
    (t.top_lists, TOP_LIST),
    (t.top_list_artists, TOP_ARTIST),
    (t.top_list_tracks, TOP_TRACK),
    (t.top_list_versions, VERSION),
    (t.music_personality, PERSONALITY),
    (t.music_personality_history, MONTH),
    (t.sync_run_users, RUN_USER),
    (t.history_imports, IMPORT),
    (t.history_import_files, IMPORT_FILE),
    (t.history_import_batches, IMPORT_BATCH),
    (t.imported_plays, IMPORTED_PLAY),
    (t.imported_tracks, IMPORTED_TRACK),
    (t.profiles, PROFILE),
]

WRONG: list[tuple[Table, dict[str, Any], str]] = [
    (t.artists, ARTIST | {"popularity": 101}, "ck_artists_popularity"),
    (t.tracks, TRACK | {"duration_ms": -1}, "ck_tracks_duration_ms"),
    (t.tracks, TRACK | {"artist_ids": []}, "ck_tracks_artist_ids"),
    (t.tracks, TRACK | {"artist_ids": ["a", None]}, "ck_tracks_artist_ids"),
    (t.tracks, TRACK | {"popularity": -1}, "ck_tracks_popularity"),
    (t.plays, PLAY | {"source": "guess"}, "ck_plays_source"),
    (t.plays, PLAY | {"ms_played": -1}, "ck_plays_ms_played"),
    (t.plays, PLAY | {"track_id": "unheard of"}, "fk_plays_track_id"),
    (t.plays, PLAY | {"user_id": "nobody"}, "fk_plays_user_id"),
    (t.user_tokens, TOKEN | {"last_error_code": "OOPS"}, "ck_user_tokens_last_error_code"),
    (t.user_tokens, TOKEN | {"sealed_access_token": b"x"}, "ck_user_tokens_access_token"),
    (t.user_tokens, TOKEN | {"access_expires_at": NOON}, "ck_user_tokens_access_token"),
    (t.coverage, COVER | {"covered_to": NOON - HOUR}, "ck_coverage_interval"),
    (t.coverage, COVER | {"covered_to": text("'infinity'")}, "ck_coverage_finite"),
    (t.coverage, COVER | {"covered_from": text("'-infinity'")}, "ck_coverage_finite"),
    (t.fetch_log, FETCH | {"new_plays": 51}, "ck_fetch_log_counts"),
    (t.fetch_log, FETCH | {"skipped": [1]}, "ck_fetch_log_skipped"),
    (
        t.fetch_log,
        FETCH | {"oldest_item_at": NOON, "newest_item_at": NOON - HOUR},
        "ck_fetch_log_item_times",
    ),
    (t.listening_gaps, GAP | {"gap_end": NOON}, "ck_listening_gaps_interval"),
    (t.listening_gaps, GAP | {"closed_at": NOON}, "ck_listening_gaps_closed"),
    (
        t.listening_gaps,
        GAP | {"closed_at": NOON, "closed_by": "magic"},
        "ck_listening_gaps_closed_by",
    ),
    (t.daily_listening, DAY | {"minutes": -1}, "ck_daily_listening_counts"),
    (t.daily_listening, DAY | {"listened_ms": -1}, "ck_daily_listening_counts"),
    (t.daily_listening, DAY | {"completeness": "yes"}, "ck_daily_listening_completeness"),
    (t.top_lists, TOP_LIST | {"kind": "albums"}, "ck_top_lists_kind"),
    (t.top_lists, TOP_LIST | {"time_range": "ever"}, "ck_top_lists_time_range"),
    (t.top_list_artists, TOP_ARTIST | {"rank": 0}, "ck_top_list_artists_rank"),
    (t.top_list_artists, TOP_ARTIST | {"rank": 51}, "ck_top_list_artists_rank"),
    (t.top_list_artists, TOP_ARTIST | {"time_range": "ever"}, "ck_top_list_artists_time_range"),
    (t.top_list_artists, TOP_ARTIST | {"popularity": 101}, "ck_top_list_artists_popularity"),
    (t.top_list_tracks, TOP_TRACK | {"rank": 0}, "ck_top_list_tracks_rank"),
    (t.top_list_versions, VERSION | {"valid_to": NOON}, "ck_top_list_versions_interval"),
    (t.top_list_versions, VERSION | {"spotify_ids": []}, "ck_top_list_versions_spotify_ids"),
    (
        t.music_personality,
        PERSONALITY | {"window_end": NOON.date() - timedelta(days=1)},
        "ck_music_personality_window",
    ),
    (
        t.music_personality_history,
        MONTH | {"month": NOON.date().replace(day=2)},
        "ck_music_personality_history_month",
    ),
    (t.music_personality, PERSONALITY | {"peak_hour": 24.0}, "ck_music_personality_peak_hour"),
    (t.music_personality, PERSONALITY | {"newness": 1.01}, "ck_music_personality_newness"),
    (t.music_personality, PERSONALITY | {"night_share": float("nan")}, "night_share"),
    (t.music_personality, PERSONALITY | {"effective_artists": 0.5}, "effective_artists"),
    (t.music_personality, PERSONALITY | {"mainstream_score": 101.0}, "mainstream_score"),
    (t.music_personality, PERSONALITY | {"current_streak": -1}, "streaks"),
    (t.music_personality, PERSONALITY | {"reasons": []}, "ck_music_personality_reasons"),
    (t.sync_run_users, RUN_USER | {"outcome": "fine"}, "ck_sync_run_users_outcome"),
    (t.sync_run_users, RUN_USER | {"outcome": "failed"}, "ck_sync_run_users_failed"),
    (
        t.sync_run_users,
        RUN_USER | {"outcome": "synced", "error_code": "INTERNAL"},
        "ck_sync_run_users_synced",
    ),
    (t.sync_run_users, RUN_USER | {"seconds": -1.0}, "ck_sync_run_users_figures"),
    (t.coverage, COVER | {"basis": "both"}, "ck_coverage_basis"),
    (t.daily_listening, DAY | {"basis": "none"}, "ck_daily_listening_basis"),
    (
        t.history_imports,
        IMPORT | {"status": "done", "finished_at": NOON},
        "ck_history_imports_status",
    ),
    (
        t.history_imports,
        IMPORT | {"status": "failed", "error_message": "x"},
        "ck_history_imports_finished",
    ),
    (t.history_imports, IMPORT | {"error_message": "x"}, "ck_history_imports_error"),
    (t.history_imports, IMPORT | {"status": "closed"}, "ck_history_imports_files"),
    (t.history_imports, IMPORT, "uq_history_imports_unfinished"),
    (t.history_import_batches, IMPORT_BATCH | {"row_count": 0}, "ck_history_import_batches_counts"),
    (t.history_import_batches, IMPORT_BATCH | {"source": "x"}, "ck_history_import_batches_source"),
    (
        t.history_imports,
        IMPORT | {"status": "succeeded", "finished_at": NOON, "rows_read": 1},
        "ck_history_imports_fates",
    ),
    (t.history_import_files, IMPORT_FILE | {"rows_read": 2}, "ck_history_import_files_fates"),
    (t.history_import_files, IMPORT_FILE | {"source": "x"}, "ck_history_import_files_source"),
    (t.imported_plays, IMPORTED_PLAY | {"ms_played": 0}, "ck_imported_plays_ms_played"),
    (t.imported_plays, IMPORTED_PLAY | {"source": "x"}, "ck_imported_plays_source"),
    (t.api_budget, {"singleton": False}, "ck_api_budget_singleton"),
    (t.api_budget, {}, "pk_api_budget"),
    (t.settings, {"singleton": False}, "ck_settings_singleton"),
    (t.settings, {}, "pk_settings"),
    (t.profiles, PROFILE | {"name": "settings"}, "ck_profiles_name"),
    (t.profiles, PROFILE | {"name": "Ada"}, "ck_profiles_name"),
    (t.profiles, PROFILE | {"name": "-ada"}, "ck_profiles_name"),
    (t.profiles, PROFILE | {"name": None, "is_public": True}, "ck_profiles_public"),
    (t.profiles, PROFILE | {"share_expires_at": NOON}, "ck_profiles_share"),
    (
        t.profiles,
        PROFILE | {"share_expires_at": NOON, "share_digest": b"short"},
        "ck_profiles_share_digest",
    ),
    (t.sealing_key, KEY | {"public_key": b"short"}, "ck_sealing_key_public_key"),
    (t.sealing_key, KEY | {"singleton": False}, "ck_sealing_key_singleton"),
]


@pytest.fixture
def ada(connection: Connection) -> str:
    add_track(connection)
    return add_user(connection)


def test_deleting_a_user_deletes_their_rows_and_no_others(connection: Connection, ada: str) -> None:
    for table, row in ROWS:
        connection.execute(insert(table).values(row))
    request_sync(connection)
    connection.execute(delete(t.users))
    left = {
        table.name
        for table in t.metadata.sorted_tables
        if connection.scalar(select(func.count()).select_from(table))
    }
    shared = {"artists", "tracks", "time_zones", "day_starts", "api_budget", "settings"}
    # That they left is remembered until no trace of them is in Dagster's storage.
    assert left == shared | {"forgotten"}
    personal = {table.name for table in t.metadata.sorted_tables if "user_id" in table.c}
    assert personal == {table.name for table, row in ROWS if "user_id" in row} | {
        "users",
        "sync_state",
        "sync_requests",
        "listening_tallies",
        "request_locks",
        "forgotten",
    }


def test_rows_that_break_a_rule_are_refused_by_its_name(connection: Connection, ada: str) -> None:
    connection.execute(insert(t.history_imports).values(IMPORT))
    for table, row, rule in WRONG:
        with pytest.raises(IntegrityError) as refusal:
            connection.execute(insert(table).values(row))
        assert rule in str(cause(refusal.value).diag.constraint_name), (table.name, row)


def test_different_recordings_may_share_a_millisecond_and_one_track_may_not(
    connection: Connection, ada: str
) -> None:
    add_track(connection, "other")
    connection.execute(insert(t.plays).values(PLAY))
    connection.execute(insert(t.plays).values(PLAY | {"track_id": "other"}))
    with pytest.raises(IntegrityError, match="pk_plays"):
        connection.execute(insert(t.plays).values(PLAY))


def test_a_play_stored_without_the_facts_of_its_track_takes_them_from_the_catalogue(
    connection: Connection, ada: str
) -> None:
    connection.execute(insert(t.plays).values(PLAY))
    facts = (t.plays.c.artist_id, t.plays.c.duration_ms)
    (before,) = connection.execute(select(*facts)).all()
    assert (
        before == connection.execute(select(t.tracks.c.artist_ids[1], t.tracks.c.duration_ms)).one()
    )
    connection.execute(update(t.tracks).values(duration_ms=7, artist_ids=["another"]))
    assert connection.execute(select(*facts)).all() == [before]


@pytest.mark.parametrize("hours", [(0, 1), (-1, 0), (1, 2), (0.5, 0.6), (-1, 5)])
def test_covers_of_a_user_neither_overlap_nor_touch(
    connection: Connection, ada: str, hours: tuple[float, float]
) -> None:
    first, last = hours
    other = {"covered_from": NOON + first * HOUR, "covered_to": NOON + last * HOUR}
    connection.execute(insert(t.coverage).values(COVER))
    with pytest.raises(IntegrityError):
        connection.execute(insert(t.coverage).values(COVER | other))


def test_covers_of_different_users_or_times_are_allowed(connection: Connection, ada: str) -> None:
    connection.execute(insert(t.coverage).values(COVER))
    later = {"covered_from": NOON + 2 * HOUR, "covered_to": NOON + 3 * HOUR}
    connection.execute(insert(t.coverage).values(COVER | later))
    for name in ("ad", "adaa", "Ada", "ada "):
        connection.execute(
            insert(t.coverage).values(COVER | {"user_id": add_user(connection, name)})
        )


def test_one_statement_may_replace_covers_by_their_union(connection: Connection, ada: str) -> None:
    later = {"covered_from": NOON + 2 * HOUR, "covered_to": NOON + 3 * HOUR}
    connection.execute(insert(t.coverage), [COVER, COVER | later])
    connection.execute(
        text("""
            WITH gone AS (DELETE FROM spotify_pipeline.coverage RETURNING *)
            INSERT INTO spotify_pipeline.coverage
            SELECT user_id, min(covered_from), max(covered_to) FROM gone GROUP BY user_id
        """)
    )
    (cover,) = connection.execute(select(t.coverage)).all()
    assert cover == ("ada", NOON, NOON + 3 * HOUR, "api")


def test_the_same_gap_is_open_only_once(connection: Connection, ada: str) -> None:
    connection.execute(insert(t.listening_gaps).values(GAP))
    with pytest.raises(IntegrityError, match="uq_listening_gaps_open"):
        connection.execute(insert(t.listening_gaps).values(GAP | {"gap_end": NOON + 2 * HOUR}))
    connection.execute(update(t.listening_gaps).values(closed_at=NOON, closed_by="import"))
    connection.execute(insert(t.listening_gaps).values(GAP))


def test_a_lease_has_both_a_holder_and_an_end(connection: Connection, ada: str) -> None:
    with pytest.raises(IntegrityError, match="ck_sync_state_lease"):
        connection.execute(update(t.sync_state).values(lease_id=uuid4()))


def test_a_block_has_both_a_reason_and_an_end(connection: Connection) -> None:
    for values in ({"blocked_until": NOON}, {"blocked_reason": "RATE"}):
        with pytest.raises(IntegrityError, match="ck_api_budget_blocked"):
            connection.execute(update(t.api_budget).values(values))
    with pytest.raises(IntegrityError, match="ck_api_budget_blocked_reason"):
        connection.execute(
            update(t.api_budget).values(blocked_until=NOON, blocked_reason="WEATHER")
        )


def test_every_error_code_can_be_stored(connection: Connection, ada: str) -> None:
    for code in ErrorCode:
        connection.execute(update(t.sync_state).values(last_error_code=code))
        assert connection.scalar(select(t.sync_state.c.last_error_code)) == code.value
