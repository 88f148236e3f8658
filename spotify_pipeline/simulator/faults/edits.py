"""Faults that change a successful response: oddities a pipeline must skip, count or survive."""

import copy
import datetime as dt
import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from spotify_pipeline.simulator.faults.base import PLAYS, TOKEN, TOPS, Edits, Scene
from spotify_pipeline.simulator.http.responses import Json, timestamp
from spotify_pipeline.simulator.music.seeds import spotify_id

LISTS = (PLAYS, *TOPS)
# Emoji, right-to-left override, combining marks, NUL, a lone surrogate, quotes, markup.
ODD_TEXTS = (
    "🎧👩‍🎤 Zoë",
    "\u202eمرحبا بالعالم",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙a\u0301\u200b\ufeff",
    "before\u0000after",
    "lone \ud83d surrogate",
    '\'; DROP TABLE plays; -- "quoted" %s {x} \\',
    "<script>alert(1)</script>\r\n\t\x1b[31m",
    "",
    "x" * 5_000,
)


def with_items(body: Json, change: Callable[[int, Json], Any]) -> Json:
    """A copy of a page with `change(index, copy of the item)` applied to every item."""
    items = [change(index, copy.deepcopy(item)) for index, item in enumerate(body["items"])]
    return body | {"items": items}


@dataclass(frozen=True)
class _EveryNthPlay(Edits):
    """Changes the first of every `each` plays."""

    endpoints: ClassVar[tuple[str, ...]] = (PLAYS,)
    each: int = 3

    def edit(self, body: Json, scene: Scene) -> Json:
        return with_items(body, lambda index, item: item if index % self.each else self.spoil(item))

    def spoil(self, item: Json) -> Json:
        raise NotImplementedError


@dataclass(frozen=True)
class NullTracks(_EveryNthPlay):
    """`track: null`."""

    def spoil(self, item: Json) -> Json:
        return item | {"track": None}


@dataclass(frozen=True)
class LocalTracks(_EveryNthPlay):
    """The listener's own local file: no id, no album, artists without ids."""

    def spoil(self, item: Json) -> Json:
        track = item["track"] | {"id": None, "is_local": True, "href": None, "uri": "spotify:local"}
        track["artists"] = [{"name": "Somebody", "id": None, "uri": None, "type": "artist"}]
        return item | {"track": track}


@dataclass(frozen=True)
class EmptyArtists(_EveryNthPlay):
    """`artists: []`."""

    def spoil(self, item: Json) -> Json:
        return item | {"track": item["track"] | {"artists": []}}


@dataclass(frozen=True)
class RelinkedTracks(_EveryNthPlay):
    """The same play with another track id: Spotify relinks tracks between markets."""

    def spoil(self, item: Json) -> Json:
        track = item["track"]
        identifier = spotify_id("relinked", track["id"])
        return item | {"track": track | {"id": identifier, "uri": f"spotify:track:{identifier}"}}


@dataclass(frozen=True)
class OddTimestamps(Edits):
    """Every ISO 8601 form on one page: no fraction, six digits, an offset. Same instants to 1 s."""

    endpoints: ClassVar[tuple[str, ...]] = (PLAYS,)

    def edit(self, body: Json, scene: Scene) -> Json:
        def change(index: int, item: Json) -> Json:
            moment = dt.datetime.fromisoformat(item["played_at"])
            shifted = moment.astimezone(dt.timezone(dt.timedelta(hours=5, minutes=45)))
            forms = (
                item["played_at"],
                moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
                moment.isoformat(timespec="microseconds"),
                shifted.isoformat(timespec="milliseconds"),
            )
            return item | {"played_at": forms[index % len(forms)]}

        return with_items(body, change)


@dataclass(frozen=True)
class FuturePlays(Edits):
    """Plays in the future, at the top of the page."""

    endpoints: ClassVar[tuple[str, ...]] = (PLAYS,)
    count: int = 3
    ahead_seconds: int = 3600

    def edit(self, body: Json, scene: Scene) -> Json:
        step = dt.timedelta(seconds=self.ahead_seconds)
        future = [
            item | {"played_at": timestamp(scene.now + step * (number + 1))}
            for number, item in enumerate(body["items"][: self.count])
        ]
        return body | {"items": future[::-1] + body["items"]}


@dataclass(frozen=True)
class Repeated(Edits):
    """Every item twice (duplicates)."""

    endpoints: ClassVar[tuple[str, ...]] = (PLAYS,)

    def edit(self, body: Json, scene: Scene) -> Json:
        return body | {"items": [item for item in body["items"] for _ in range(2)]}


@dataclass(frozen=True)
class OutOfOrder(Edits):
    """Items sorted oldest first."""

    endpoints: ClassVar[tuple[str, ...]] = (PLAYS,)

    def edit(self, body: Json, scene: Scene) -> Json:
        return body | {"items": body["items"][::-1]}


@dataclass(frozen=True)
class OddText(Edits):
    """Names that break printing, logging and storing."""

    endpoints: ClassVar[tuple[str, ...]] = LISTS

    def edit(self, body: Json, scene: Scene) -> Json:
        def change(index: int, item: Json) -> Json:
            named = item.get("track", item)
            named["name"] = ODD_TEXTS[index % len(ODD_TEXTS)]
            for artist in named.get("artists", ()):
                artist["name"] = ODD_TEXTS[(index + 1) % len(ODD_TEXTS)]
            return item

        return with_items(body, change)


@dataclass(frozen=True)
class NextElsewhere(Edits):
    """`next` and `href` point to another host: a client that follows them sends it the token."""

    endpoints: ClassVar[tuple[str, ...]] = LISTS
    url: str = "http://127.0.0.2:9/v1/me/player/recently-played?before=1"

    def edit(self, body: Json, scene: Scene) -> Json:
        return body | {"next": self.url, "href": self.url}


@dataclass(frozen=True)
class EmptyPage(Edits):
    """200 with an empty page, as if the listener had never played anything."""

    endpoints: ClassVar[tuple[str, ...]] = LISTS

    def edit(self, body: Json, scene: Scene) -> Json:
        emptied: Json = {"items": [], "next": None}
        return body | emptied | ({"cursors": None} if "cursors" in body else {"total": 0})


@dataclass(frozen=True)
class Put(Edits):
    """Sets any value at a path such as `["items", 0, "track", "duration_ms"]`; `[]` is the body.

    `drop`: removes the field instead. A page without this path stays as it is.
    """

    path: tuple[str | int, ...] = ()
    value: Any = None
    drop: bool = False

    def edit(self, body: Json, scene: Scene) -> Json:
        root: Any = {"body": copy.deepcopy(body)}
        *steps, last = ("body", *self.path)
        try:
            holder = functools.reduce(operator.getitem, steps, root)
            holder[last] = self.value
        except (LookupError, TypeError):
            return body  # an empty page has no first item
        if self.drop:
            del holder[last]
        edited: Json = root["body"]
        return edited


@dataclass(frozen=True)
class RotateRefreshToken(Edits):
    """A new refresh token in the response; the old one is revoked at once."""

    endpoints: ClassVar[tuple[str, ...]] = (TOKEN,)

    def edit(self, body: Json, scene: Scene) -> Json:
        return body | {"refresh_token": scene.rotate_refresh_token()}


@dataclass(frozen=True)
class NullRefreshToken(Edits):
    """`refresh_token` is null or empty: the old one stays valid."""

    endpoints: ClassVar[tuple[str, ...]] = (TOKEN,)
    value: str | None = None

    def edit(self, body: Json, scene: Scene) -> Json:
        return body | {"refresh_token": self.value}
