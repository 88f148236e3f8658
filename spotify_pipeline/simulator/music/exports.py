"""The data exports of a listener: what Spotify hands out of the same life that the feed shows.

Every row carries its truth: which play it is, and what an import should make of it. Like the feed
a pure function of its arguments; the same play has the same values in both formats.

Beside the plays of the life there is what the feed never lists: short and silent rows, private
sessions, podcasts, chapters, local and unknown titles. They lie in the pauses between sessions.
"""

import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import pairwise
from random import Random
from typing import Literal, NamedTuple

from spotify_pipeline.simulator.http.responses import Json
from spotify_pipeline.simulator.music.catalogue import TRACKS_PER_ARTIST
from spotify_pipeline.simulator.music.feed import Entry, Feed
from spotify_pipeline.simulator.music.listeners import SESSION_PAUSE_MS, from_ms
from spotify_pipeline.simulator.music.seeds import invented_word, seeded, spotify_id, title

ExportFormat = Literal["extended", "account"]
# What a row is: a play of 30 s or more, a shorter one, a row that repeats another, or no play.
ExportFate = Literal[
    "play",
    "short",
    "repeated",
    "silent",
    "podcast",
    "audiobook",
    "local",
    "incognito",
    "malformed",
    "future",
]
Era = Literal["2024", "2020"]
_SHORT_MS = 30_000


@dataclass(frozen=True, slots=True)
class ExportOddities:
    """How an export departs from an ideal one; by default as real ones do.

    pauses, relinked, videos: share of the plays that were paused, that have the second id of their
    track, that were music videos.
    short, silent, incognito, podcasts, audiobooks, local, unknown: mean number of such rows in a
    pause between two sessions (at most one each; short up to four).
    repeats: rows that stand twice in a file, and again in the next file.
    unsorted: share of the files whose rows are shuffled.
    broken: rows of each kind that no export has: malformed ones and one in the future.
    """

    pauses: float = 0.05
    relinked: float = 0.03
    videos: float = 0.03
    short: float = 0.6
    silent: float = 0.1
    incognito: float = 0.05
    podcasts: float = 0.1
    audiobooks: float = 0.02
    local: float = 0.03
    unknown: float = 0.05
    repeats: int = 2
    unsorted: float = 0.4
    broken: int = 0

    @classmethod
    def none(cls) -> "ExportOddities":
        """Only the plays, sorted."""
        return cls(**{name: 0 for name in cls.__slots__})


class ExportedRow(NamedTuple):
    """A row of an export and its truth.

    `played_ms` is the end (Unix ms) of the play of the feed that the row is; None for other rows.
    """

    row: Json
    fate: ExportFate
    played_ms: int | None


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A file of an export: its path in the archive, and its rows, or its text if it has none."""

    path: str
    rows: tuple[ExportedRow, ...] = ()
    text: str | None = None

    def content(self) -> bytes:
        """The bytes of the file."""
        if self.text is not None:
            return self.text.encode()
        rows = (json.dumps(exported.row, ensure_ascii=False) for exported in self.rows)
        return ("[" + ",\n".join(rows) + "]").encode()


Kind = Literal[
    "track", "silent", "incognito", "podcast", "audiobook", "local", "unknown", "unknown artist"
]

# Others depend on how long they were heard.
_FATE_OF_KIND: dict[Kind, ExportFate] = {
    "podcast": "podcast",
    "audiobook": "audiobook",
    "incognito": "incognito",
    "local": "local",
    "unknown": "local",
    "unknown artist": "local",
}


@dataclass(frozen=True, slots=True)
class _Stream:
    """What was played; times in Unix ms. `uploaded_ms` is set for what was played offline."""

    start_ms: int
    end_ms: int
    heard_ms: int
    kind: Kind = "track"
    track: int = 0
    relinked: bool = False
    video: bool = False
    uploaded_ms: int | None = None
    played_ms: int | None = None

    @property
    def stamp_s(self) -> int:
        """The row's time: the end of the play, or its upload, rounded to the second."""
        return ((self.uploaded_ms or self.end_ms) + 500) // 1000


@dataclass(frozen=True)
class Exporter:
    """Writes exports of one listener. `rows_per_file` is small in tests."""

    feed: Feed
    oddities: ExportOddities = field(default_factory=ExportOddities)
    era: Era = "2024"
    rows_per_file: int = 16_000

    def files(self, form: ExportFormat, since_ms: int, now_ms: int) -> list[ExportedFile]:
        """The files of an export with what ended in (since, now], as it was requested at `now`."""
        played = self._streams(since_ms, now_ms)
        streams = [stream for stream in played if stream.stamp_s * 1000 <= now_ms]
        streams.sort(key=lambda stream: (stream.stamp_s, stream.end_ms))
        return self._extended(streams, now_ms) if form == "extended" else self._account(streams)

    def _streams(self, since_ms: int, now_ms: int) -> Iterator[_Stream]:
        entries = self.feed.entries(since_ms, now_ms)
        for entry in entries:
            yield self._play(entry)
        for before, after in pairwise(entry.play for entry in entries):
            if after.start_ms - before.end_ms >= SESSION_PAUSE_MS:
                yield from self._between_sessions(before.end_ms, before.track)

    def _play(self, entry: Entry) -> _Stream:
        play, rng = entry.play, self._rng("play", entry.play.end_ms)
        # No two plays of a track in one minute have the same length in real exports.
        heard_ms = max(_SHORT_MS, play.end_ms - play.start_ms - rng.randrange(997))
        if rng.random() < self.oddities.pauses:
            heard_ms = max(_SHORT_MS, heard_ms - rng.randrange(1_000, 60_000))
        return _Stream(
            play.start_ms,
            play.end_ms,
            heard_ms,
            track=play.track,
            relinked=rng.random() < self.oddities.relinked,
            video=rng.random() < self.oddities.videos,
            uploaded_ms=entry.uploaded_ms,
            played_ms=play.end_ms,
        )

    def _between_sessions(self, from_ms: int, track: int) -> Iterator[_Stream]:
        """Rows of at most 20 minutes together: the shortest pause between two sessions."""
        odd, rng, clock = self.oddities, self._rng("pause", from_ms), from_ms + 2_000
        short = sum(rng.random() < odd.short / 4 for _ in range(4))
        unknown: Kind = "unknown" if rng.random() < 0.8 else "unknown artist"
        shares: list[tuple[Kind, float, int]] = [
            ("silent", odd.silent, 1),
            ("incognito", odd.incognito, 240_000),
            ("podcast", odd.podcasts, 300_000),
            ("audiobook", odd.audiobooks, 120_000),
            ("local", odd.local, 200_000),
            (unknown, odd.unknown, _SHORT_MS if unknown == "unknown" else 120_000),
        ]
        kinds: list[tuple[Kind, int]] = [("track", _SHORT_MS)] * short
        kinds += [(kind, most) for kind, share, most in shares if rng.random() < share]
        rng.shuffle(kinds)
        for number, (kind, most) in enumerate(kinds):
            # The first track of each of the next artists: none is the one that was just played.
            artist = (track // TRACKS_PER_ARTIST + 1 + number) % self.feed.listener.catalogue.size
            heard_ms = 0 if kind == "silent" else rng.randrange(1, most)
            yield _Stream(clock, clock + heard_ms, heard_ms, kind, artist * TRACKS_PER_ARTIST)
            clock += heard_ms + 2_000

    def _extended(self, streams: Sequence[_Stream], now_ms: int) -> list[ExportedFile]:
        rows = {
            video: [self._extended_row(stream) for stream in streams if stream.video == video]
            for video in (False, True)
        }
        rows[False] += self._broken_rows(now_ms)
        old = self.era == "2020"
        folder = "MyData" if old else "Spotify Extended Streaming History"
        files = []
        for number, part in enumerate(self._parts(rows[False])):
            name = (
                f"endsong_{number}" if old else f"Streaming_History_Audio_{_years(part)}_{number}"
            )
            files.append(ExportedFile(f"{folder}/{name}.json", part))
        if rows[True]:
            part = tuple(rows[True])
            number = len(files)
            name = f"endsong_{number}" if old else f"Streaming_History_Video_{_years(part)}"
            files.append(ExportedFile(f"{folder}/{name}.json", part))
        read_me = ExportedFile(f"{folder}/ReadMeFirst_ExtendedStreamingHistory.pdf", text="%PDF")
        return [*_with_repeats_marked(files), read_me]

    def _account(self, streams: Sequence[_Stream]) -> list[ExportedFile]:
        rows = [
            self._account_row(stream)
            for stream in streams
            if stream.kind not in ("incognito", "audiobook", "podcast")
        ]
        podcasts = [self._account_row(stream) for stream in streams if stream.kind == "podcast"]
        old = self.era == "2020"
        folder = "MyData" if old else "Spotify Account Data"
        files = [
            ExportedFile(f"{folder}/StreamingHistory{'' if old else '_music_'}{number}.json", part)
            for number, part in enumerate(self._parts(rows))
        ]
        files.append(ExportedFile(f"{folder}/StreamingHistory_podcast_0.json", tuple(podcasts)))
        private = json.dumps({"username": self.feed.listener.user_id, "email": "x@example.com"})
        return [
            *_with_repeats_marked(files),
            *(ExportedFile(f"{folder}/{name}.json", text=private) for name in _PRIVATE_FILES),
        ]

    def _parts(self, rows: list[ExportedRow]) -> Iterator[tuple[ExportedRow, ...]]:
        """The rows of each file: some repeated, also from the file before, some files unsorted."""
        before: list[ExportedRow] = []
        for start in range(0, max(len(rows), 1), self.rows_per_file):
            part = rows[start : start + self.rows_per_file]
            rng = self._rng("file", start)
            plays = [row for row in part if row.fate in ("play", "short")]
            again = rng.sample(plays, min(self.oddities.repeats, len(plays)))
            following = [*before, *part, *again]
            before = again
            if rng.random() < self.oddities.unsorted:
                rng.shuffle(following)
            yield tuple(following)

    def _extended_row(self, stream: _Stream) -> ExportedRow:
        names = self._names(stream)
        # Multiplicative hashing: a generator for each row would cost a second.
        dice = (stream.end_ms * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 20
        episode = stream.kind == "podcast"
        chapter = stream.kind == "audiobook"
        unnamed = episode or chapter or stream.kind == "unknown"
        without_id = unnamed or stream.kind in ("local", "unknown artist")
        offline_timestamp: int | None = (None, None, 0, stream.start_ms // 1000)[dice % 4]
        if stream.uploaded_ms is not None:
            offline_timestamp = (stream.start_ms, stream.start_ms // 1000)[dice % 2]
        address, agent = ("ip_addr", "user_agent")
        if self.era == "2020":
            address, agent = ("ip_addr_decrypted", "user_agent_decrypted")
        row = {
            "ts": f"{from_ms(stream.stamp_s * 1000):%Y-%m-%dT%H:%M:%SZ}",
            "username": self.feed.listener.user_id,
            "platform": "Android OS 14 (simulated)",
            "ms_played": stream.heard_ms,
            "conn_country": ("DE", "ZZ")[dice >> 2 & 1],
            address: "198.51.100.7",
            agent: "simulated",
            "master_metadata_track_name": None if unnamed else names.track,
            "master_metadata_album_artist_name": None if unnamed else names.artist,
            "master_metadata_album_album_name": None if unnamed else names.album,
            "spotify_track_uri": None if without_id else f"spotify:track:{names.track_id}",
            "episode_name": names.track if episode else None,
            "episode_show_name": f" {names.artist} " if episode else None,
            "spotify_episode_uri": f"spotify:episode:{names.track_id}" if episode else None,
            "audiobook_title": names.album if chapter else None,
            "audiobook_uri": f"spotify:show:{names.track_id}" if chapter else None,
            "audiobook_chapter_uri": f"spotify:episode:{names.track_id}" if chapter else None,
            "audiobook_chapter_title": names.track if chapter else None,
            "reason_start": "trackdone",
            "reason_end": ("trackdone", "fwdbtn", "endplay", "")[dice >> 3 & 3],
            "shuffle": (True, False, None, None)[dice >> 5 & 3],
            "skipped": (True, False, None, None)[dice >> 7 & 3],
            "offline": stream.uploaded_ms is not None or (False, None)[dice >> 9 & 1],
            "offline_timestamp": offline_timestamp,
            "incognito_mode": stream.kind == "incognito" or (False, None)[dice >> 10 & 1],
        }
        if self.era == "2020":
            row = {name: value for name, value in row.items() if not name.startswith("audiobook")}
        fate = _FATE_OF_KIND.get(stream.kind) or _fate_of_length(stream.heard_ms)
        if chapter and self.era == "2020":
            fate = "local"  # there are no fields for chapters: nothing says what the row was
        return ExportedRow(row, fate, stream.played_ms)

    def _account_row(self, stream: _Stream) -> ExportedRow:
        names = self._names(stream)
        end_time = f"{from_ms(stream.stamp_s * 1000):%Y-%m-%d %H:%M}"
        if stream.kind == "podcast":
            row = {
                "endTime": end_time,
                "podcastName": f" {names.artist}",
                "episodeName": names.track,
                "msPlayed": stream.heard_ms,
            }
            return ExportedRow(row, "podcast", None)
        row = {
            "endTime": end_time,
            "artistName": names.artist if stream.kind != "unknown artist" else "Unknown Artist",
            "trackName": names.track,
            "msPlayed": stream.heard_ms,
        }
        if stream.kind == "unknown":
            row |= {"artistName": "Unknown Artist", "trackName": "Unknown Track"}
        return ExportedRow(row, _fate_of_length(stream.heard_ms), stream.played_ms)

    def _broken_rows(self, now_ms: int) -> list[ExportedRow]:
        """Rows that no export of Spotify has."""
        good = self._extended_row(_Stream(now_ms - 200_000, now_ms, 200_000)).row
        later = f"{from_ms(now_ms + 600_000):%Y-%m-%dT%H:%M:%SZ}"
        edits: list[tuple[ExportFate, Json]] = [
            ("future", {"ts": later}),
            ("malformed", {"ts": None}),
            ("malformed", {"ms_played": -5}),
            ("malformed", {"spotify_track_uri": "spotify:track:?"}),
        ]
        return [
            ExportedRow({**good, **edit}, fate, None) for fate, edit in edits * self.oddities.broken
        ]

    def _names(self, stream: _Stream) -> "_Names":
        catalogue = self.feed.listener.catalogue
        if stream.kind in ("podcast", "audiobook", "local", "unknown artist"):
            rng = self._rng("names", stream.end_ms)
            own_id = spotify_id(catalogue.seed, stream.kind, stream.end_ms)
            return _Names(own_id, title(rng), f"{invented_word(rng)} FM", title(rng))
        track = catalogue.track(stream.track)
        artist = stream.track // TRACKS_PER_ARTIST
        track_id = track.spotify_id
        if stream.relinked:
            track_id = spotify_id(catalogue.seed, "relinked", stream.track)
        album = catalogue.album(artist, track.release).name
        return _Names(track_id, track.name, catalogue.artist(artist).name, album)

    def _rng(self, *parts: object) -> Random:
        listener = self.feed.listener
        return seeded(listener.seed, listener.user_id, "export", *parts)


class _Names(NamedTuple):
    track_id: str
    track: str
    artist: str
    album: str


_PRIVATE_FILES = ("Userdata", "Payments", "Playlist1", "Inferences", "SearchQueries")


def zipped(files: Iterable[ExportedFile]) -> bytes:
    """The files as one zip, equal for equal files."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.writestr(zipfile.ZipInfo(file.path), file.content(), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _fate_of_length(ms_played: int) -> ExportFate:
    if ms_played == 0:
        return "silent"
    return "play" if ms_played >= _SHORT_MS else "short"


def _years(rows: Iterable[ExportedRow]) -> str:
    years = sorted({exported.row["ts"][:4] for exported in rows if exported.row["ts"]})
    return "-".join(dict.fromkeys((years[0], years[-1]))) if years else "0"


def _with_repeats_marked(files: Iterable[ExportedFile]) -> Iterator[ExportedFile]:
    """The files, in which every row that stood further up, or in an earlier file, is a repeat."""
    seen: set[tuple[object, ...]] = set()

    def marked(exported: ExportedRow) -> ExportedRow:
        if exported.fate not in ("play", "short"):
            return exported
        key = tuple(exported.row.values())
        if key in seen:
            return exported._replace(fate="repeated")
        seen.add(key)
        return exported

    for file in files:
        yield replace(file, rows=tuple(map(marked, file.rows)))
