"""Uploads: imports whose rows an app has handed over (storage/sql/imports.sql).

A closed upload is the truth and Dagster the executor: the sensor asks for runs until the upload has
succeeded or failed.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, delete, func, null, select, update

from spotify_pipeline.domain.listening.exported import ExportSource
from spotify_pipeline.storage import tables as t

# A tick of the sensor asks for this many runs at most; Dagster runs four at a time.
AT_ONCE = 100

_i, _b = t.history_imports, t.history_import_batches


@dataclass(frozen=True, slots=True)
class Upload:
    """A closed upload. `key` is that of the run which was, or is to be, asked for."""

    import_id: int
    user_id: str
    attempts: int
    # Of the database's clock. A restored database counts imports anew, but not at the same instant.
    started_at: datetime

    @property
    def key(self) -> str:
        """Dagster starts one run for it."""
        return f"import-{self.import_id}-{self.attempts}-{self.started_at.timestamp():.6f}"


class UploadedRow(NamedTuple):
    """A row that is a play, as `exports` reads one; it keeps all rules of `add_history_rows`."""

    source: ExportSource
    ended_at: datetime
    ms_played: int
    track_id: str | None
    track_name: str
    artist_name: str
    album_name: str | None
    offline_started_at: datetime | None
    number: int


@dataclass(eq=False)
class UploadedFile:
    """A file of an upload, with the attributes that the import needs of a file.

    `rows` reads one batch after the other: at most 5,000 rows are in memory.
    """

    name: str
    source: ExportSource
    malformed: tuple[tuple[int, str], ...]
    _engine: Engine
    _import_id: int
    _number: int
    _counts: Mapping[str, int]
    _span: tuple[datetime | None, datetime | None]
    _latest: datetime
    bytes_read: int = 0  # not known
    counts: Counter[str] = field(default_factory=Counter)
    _plays: int = 0

    @property
    def rows_read(self) -> int:
        """Rows of the file, plays or not, as far as they are read."""
        return self._plays + sum(self._counts.values())

    @property
    def first_at(self) -> datetime | None:
        """End of the earliest row; None: no row, or all in the future."""
        first, _ = self._span
        return first if first and first <= self._latest else None

    @property
    def last_at(self) -> datetime | None:
        """End of the latest row, at most the present."""
        _, last = self._span
        return min(last, self._latest) if last and self.first_at else None

    def rows(self) -> Iterator[UploadedRow]:
        """Yields the rows that do not end in the future, in the order of the file."""
        self._plays = 0
        self.counts = Counter(self._counts)
        for batch in self._batches():
            for ended_at, ms_played, track_id, track, artist, album, offline in batch:
                row = UploadedRow(
                    self.source,
                    datetime.fromisoformat(ended_at),
                    ms_played,
                    track_id,
                    track,
                    artist,
                    album,
                    datetime.fromisoformat(offline) if offline else None,
                    self._plays,
                )
                self._plays += 1
                if row.ended_at > self._latest:
                    self.counts["future"] += 1
                else:
                    yield row

    def _batches(self) -> Iterator[list[Any]]:
        """A transaction each: the rows of a closed upload do not change."""
        of_file = (_b.c.import_id == self._import_id) & (_b.c.file == self._number)
        after = -1
        while True:
            following = select(_b.c.number, _b.c.content).where(of_file, _b.c.number > after)
            with self._engine.connect() as conn:
                batch = conn.execute(following.order_by(_b.c.number).limit(1)).one_or_none()
            if batch is None:
                return
            after, content = batch
            yield content


def closed_uploads(conn: Connection) -> list[Upload]:
    """The oldest uploads that wait for an import, at most AT_ONCE."""
    columns = (_i.c.id, _i.c.user_id, _i.c.attempts, _i.c.started_at)
    rows = conn.execute(
        select(*columns).where(_i.c.status == "closed").order_by(_i.c.id).limit(AT_ONCE)
    )
    return [Upload(*row) for row in rows]


def closed_upload(conn: Connection, user_id: str) -> int | None:
    """The number of the user's upload that waits for an import; there is at most one."""
    found: int | None = conn.scalar(
        select(_i.c.id).where(_i.c.user_id == user_id, _i.c.status == "closed")
    )
    return found


def uploaded_files(engine: Engine, import_id: int, latest: datetime) -> list[UploadedFile]:
    """The files of a closed upload; [] if it is finished. Rows after `latest` are in the future."""
    with engine.connect() as conn:
        files = conn.scalar(select(_i.c.files).where(_i.c.id == import_id))
    return [
        UploadedFile(
            name=file["name"],
            source=file["source"],
            malformed=tuple((index, reason) for index, reason in file["malformed"]),
            _engine=engine,
            _import_id=import_id,
            _number=number,
            _counts=file["counts"],
            _span=(_instant(file["first_at"]), _instant(file["last_at"])),
            _latest=latest,
        )
        for number, file in enumerate(files or [])
    ]


def lock_upload(conn: Connection, import_id: int) -> bool:
    """Lock the upload until the transaction ends, whose user is locked; False: not closed now."""
    status = conn.scalar(select(_i.c.status).where(_i.c.id == import_id).with_for_update())
    return bool(status == "closed")


def try_again(conn: Connection, upload: Upload) -> Upload:
    """Count another attempt, whose run has a key of its own."""
    same = (_i.c.id == upload.import_id) & (_i.c.status == "closed")
    attempts = upload.attempts + 1
    conn.execute(update(_i).where(same).values(attempts=attempts))
    return Upload(upload.import_id, upload.user_id, attempts, upload.started_at)


def fail_upload(conn: Connection, upload: Upload, message: str) -> None:
    """Give the upload up, with a sentence for the user; its rows are deleted."""
    failed = conn.execute(
        update(_i)
        .where(_i.c.id == upload.import_id, _i.c.status == "closed")
        .values(
            status="failed",
            finished_at=func.now(),
            error_message=message,
            files=null(),
            closed_at=null(),
        )
        .returning(_i.c.id)
    ).first()
    if failed:
        conn.execute(delete(_b).where(_b.c.import_id == upload.import_id))


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
