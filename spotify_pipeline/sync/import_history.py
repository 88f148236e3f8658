"""Imports a user's own export: reads it, merges it in one transaction, rebuilds days.

No call to Spotify. Nothing is stored unless all of it is: the rows wait in a temporary table, and
the merge is one transaction under the user's lease. Killed at any point, the same import again
gives the same tables.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

from spotify_pipeline.domain.import_receipt import FileReceipt, Receipt
from spotify_pipeline.domain.listening.coverage import Interval
from spotify_pipeline.domain.listening.exported import ExportedTrack, named_id
from spotify_pipeline.domain.outcome import UserOutcome
from spotify_pipeline.domain.parsing import FUTURE_AFTER
from spotify_pipeline.errors import WorkFailed
from spotify_pipeline.exports.reader import ExportFile
from spotify_pipeline.storage.imports.merge import add_facts, compute_plays, stage_rows, staged_line
from spotify_pipeline.storage.imports.receipts import (
    compare_minutes,
    count_fates,
    latest_receipt,
    save_receipt,
)
from spotify_pipeline.storage.imports.uploads import (
    UploadedFile,
    closed_upload,
    lock_upload,
    uploaded_files,
)
from spotify_pipeline.storage.listening.catalogue import save_exported_tracks
from spotify_pipeline.storage.listening.coverage import add_imported
from spotify_pipeline.storage.listening.days import mark_stale
from spotify_pipeline.storage.postgres.types import Connection
from spotify_pipeline.storage.users.queries import load_users
from spotify_pipeline.storage.work.leases import leased, lock_held
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.users import rebuild_users

# Below the time after which Postgres ends a transaction that does nothing.
WAIT_SECONDS = 45
_TRACKS_AT_ONCE = 5_000
_ROWS_BETWEEN_CALLS = 1_000

# Title, artist's name and album's title, by track id.
_Names = dict[str, tuple[str, str, str]]
# On disk, or handed over by an app.
_File = ExportFile | UploadedFile


def import_history(
    pipeline: Pipeline,
    user_id: str,
    files: Iterable[ExportFile],
    *,
    dry_run: bool = False,
    wait_seconds: float = WAIT_SECONDS,
    advance: Callable[[int], None] = lambda bytes_read: None,
) -> Receipt:
    """Import these files for a user who exists; returns what became of their rows.

    `dry_run`: does the same and rolls it back. Waits up to `wait_seconds` for another sync or
    import of the user. `advance` is called with the bytes read so far. Raises BadExport, and
    WorkFailed if the user is busy or gone.
    """
    receipt = _store(pipeline, user_id, files, None, dry_run, wait_seconds, advance)
    if not dry_run:
        for outcome in _rebuild(pipeline, user_id, wait_seconds):
            if outcome.failure or outcome.skipped:
                raise WorkFailed(
                    "The history was stored, but its days could not be computed: run "
                    "`spotify-pipeline rebuild` for this user."
                )
    return receipt


def import_upload(
    pipeline: Pipeline, user_id: str, *, wait_seconds: float = WAIT_SECONDS
) -> tuple[Receipt | None, list[UserOutcome]]:
    """Import what an app has handed over for this user, if anything, and rebuild stale days.

    Killed anywhere and called again it has the same outcome. Returns the receipt of the user's
    latest import, and the outcome of the rebuild ([]: no day was stale). Raises WorkFailed if the
    user is busy or gone.
    """
    with pipeline.engine.connect() as conn:
        upload_id = closed_upload(conn, user_id)
    if upload_id is not None:
        files = uploaded_files(pipeline.engine, upload_id, pipeline.now() + FUTURE_AFTER)
        _store(pipeline, user_id, files, upload_id, wait_seconds=wait_seconds)
    outcomes = _rebuild(pipeline, user_id, wait_seconds)
    with pipeline.engine.connect() as conn:
        return latest_receipt(conn, user_id), outcomes


def _store(
    pipeline: Pipeline,
    user_id: str,
    files: Iterable[_File],
    upload_id: int | None,
    dry_run: bool = False,
    wait_seconds: float = WAIT_SECONDS,
    advance: Callable[[int], None] = lambda bytes_read: None,
) -> Receipt:
    """All but the days, in one transaction."""
    pipeline.check_clock()
    read: list[_File] = []
    names: _Names = {}
    with ExitStack() as undo, pipeline.engine.connect() as conn:
        transaction = undo.enter_context(conn.begin())
        stage_rows(conn, _lines(files, read, names, advance))
        _save_tracks(pipeline, conn, names, dry_run=dry_run)
        names.clear()
        with leased(
            pipeline.engine,
            [user_id],
            wait_seconds=wait_seconds,
            sleep=pipeline.sleep,
            monotonic=pipeline.monotonic,
        ) as lease:
            held = lock_held(conn, [user_id], lease.lease_id)
            if user_id not in held.existing:
                raise WorkFailed("There is no such user any more. Nothing was stored.")
            if user_id not in held.ours:
                raise WorkFailed(
                    "Another sync or import of this user is still going on. Nothing was stored: "
                    "run it again later."
                )
            if upload_id is not None and not lock_upload(conn, upload_id):
                raise WorkFailed("Another run has finished this import.")
            receipt = _merge(conn, pipeline, user_id, read)
            if dry_run:
                transaction.rollback()
            else:
                save_receipt(conn, user_id, receipt, upload_id)
                transaction.commit()
    return receipt


def _merge(conn: Connection, pipeline: Pipeline, user_id: str, files: Iterable[_File]) -> Receipt:
    (user,) = load_users(conn, [user_id])
    merged = add_facts(conn, user_id, user.plays_from)
    if merged:
        compute_plays(conn, user_id)
    spans = [
        Interval(file.first_at, file.last_at) for file in files if file.first_at and file.last_at
    ]
    if add_imported(conn, user_id, spans, pipeline.now()) or merged:
        mark_stale(conn, [user_id])
    fates = count_fates(conn, user.plays_from, merged=merged)
    return Receipt(
        tuple(
            FileReceipt(
                name=file.name,
                source=file.source,
                rows_read=file.rows_read,
                fates=fates[number] + file.counts,
                first_at=file.first_at,
                last_at=file.last_at,
                malformed=tuple(file.malformed),
            )
            for number, file in enumerate(files)
        ),
        compare_minutes(conn, user_id),
    )


def _lines(
    files: Iterable[_File],
    read: list[_File],
    names: _Names,
    advance: Callable[[int], None],
) -> Iterator[str]:
    """The rows of the files as COPY reads them; collects the files and the names of tracks."""
    done = 0
    for number, file in enumerate(files):
        read.append(file)
        for row in file.rows():
            track_id = row.track_id or named_id(row.artist_name, row.track_name)
            named = (row.track_name, row.artist_name, row.album_name or "")
            # Of several names the greatest: the order of rows does not matter.
            if named > names.get(track_id, ("",)):
                names[track_id] = named
            yield staged_line(
                number,
                row.number,
                row.ended_at,
                track_id,
                row.ms_played,
                row.source,
                row.offline_started_at,
            )
            if row.number % _ROWS_BETWEEN_CALLS == 0:
                advance(done + file.bytes_read)
        done += file.bytes_read
        advance(done)


def _save_tracks(pipeline: Pipeline, conn: Connection, names: _Names, *, dry_run: bool) -> None:
    """The catalogue first, in transactions of its own: its locks are short, as those of a sync."""
    ids = sorted(names)
    for start in range(0, len(ids), _TRACKS_AT_ONCE):
        tracks = [
            ExportedTrack(track_id, title, artist, album or None)
            for track_id in ids[start : start + _TRACKS_AT_ONCE]
            for title, artist, album in [names[track_id]]
        ]
        if dry_run:
            save_exported_tracks(conn, tracks)
        else:
            with pipeline.engine.begin() as catalogue:
                save_exported_tracks(catalogue, tracks)


def _rebuild(pipeline: Pipeline, user_id: str, wait_seconds: float) -> list[UserOutcome]:
    """Days and personality again, also where an import was killed between merge and rebuild."""
    with pipeline.engine.connect() as conn:
        stale = any(user.days_stale for user in load_users(conn, [user_id]))
    return rebuild_users(pipeline, [user_id], wait_seconds=wait_seconds) if stale else []
