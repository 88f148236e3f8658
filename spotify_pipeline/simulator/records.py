"""What the control API returns, other than plain values; pydantic makes JSON of it and reads it."""

import datetime as dt
from dataclasses import dataclass
from typing import NamedTuple

import pydantic.dataclasses

from spotify_pipeline.simulator.http.responses import Json, Shape
from spotify_pipeline.simulator.music.exports import ExportFate


@dataclass(frozen=True, slots=True)
class ListenerInfo:
    """A listener, and the refresh token that the pipeline is given."""

    user_id: str
    refresh_token: str
    timezone: str
    display_name: str | None
    account_id: str
    kind: str
    shape: Shape


class CallRecord(NamedTuple):
    """One call to Spotify: arrival in Unix seconds of real time, endpoint, user if known, the HTTP
    status, and the kinds of faults that hit it.
    """

    at: float
    endpoint: str
    user_id: str | None
    status: int
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """A play as a page lists it; all three fields may differ from the true play."""

    played_at: dt.datetime
    track_id: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class LedgerPlay:
    """A true play and how the feed lists it; times are UTC, `played_at` is the end of the play.

    User and `played_at` identify a play; its track, names, `duration_ms` and `isrc` are the
    original ones, whatever is served. The listener heard `heard_ms` of the track.

    `published`: the feed has listed it by the simulator's now, `visible`: it is on the full page
    now, `served`: it was in a response that was sent completely. `missing`: the feed never lists
    it; `vanished`: the feed listed it and no longer does. `visible_as`: how the full page lists it
    now, twice if under two track ids. `served_as`: each instant and track id under which it was
    served, in order, each with the length of the first time.
    """

    played_at: dt.datetime
    started_at: dt.datetime
    published_at: dt.datetime
    published: bool
    visible: bool
    served: bool
    track_id: str
    track_name: str
    duration_ms: int
    artist_id: str
    artist_name: str
    isrc: str
    heard_ms: int
    missing: bool
    vanished: bool
    visible_as: tuple[Listing, ...]
    served_as: tuple[Listing, ...]


@dataclass(frozen=True, slots=True)
class ExportLine:
    """A row of an export, and its truth; see `music.exports`.

    `played_at` is the end (UTC) of the play in the ledger that the row is; None: the feed never
    lists it. `file` is the path in the archive, `row` is what stands there.
    """

    file: str
    index: int
    fate: ExportFate
    played_at: dt.datetime | None
    row: Json


@pydantic.dataclasses.dataclass(
    frozen=True, slots=True, config={"ser_json_bytes": "base64", "val_json_bytes": "base64"}
)
class Export:
    """A data export as Spotify hands it out, a zip, and every row of its files in their order."""

    archive: bytes
    books: list[ExportLine]
