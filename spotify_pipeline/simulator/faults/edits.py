"""Faults that change a successful response: oddities a pipeline must skip, count or survive."""

import copy
import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from spotify_pipeline.simulator.faults.base import PLAYS, TOKEN, TOPS, Edits
from spotify_pipeline.simulator.http.responses import Json

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


@dataclass(frozen=True)
class OddText(Edits):
    """Names that break printing, logging and storing."""

    endpoints: ClassVar[tuple[str, ...]] = LISTS

    def edit(self, body: Json, rotate_refresh_token: Callable[[], str]) -> Json:
        items = copy.deepcopy(body["items"])
        for index, item in enumerate(items):
            named = item.get("track", item)
            named["name"] = ODD_TEXTS[index % len(ODD_TEXTS)]
            for artist in named.get("artists", ()):
                artist["name"] = ODD_TEXTS[(index + 1) % len(ODD_TEXTS)]
        return body | {"items": items}


@dataclass(frozen=True)
class EmptyPage(Edits):
    """200 with an empty page, as if the listener had never played anything."""

    endpoints: ClassVar[tuple[str, ...]] = LISTS

    def edit(self, body: Json, rotate_refresh_token: Callable[[], str]) -> Json:
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

    def edit(self, body: Json, rotate_refresh_token: Callable[[], str]) -> Json:
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

    def edit(self, body: Json, rotate_refresh_token: Callable[[], str]) -> Json:
        return body | {"refresh_token": rotate_refresh_token()}


@dataclass(frozen=True)
class NullRefreshToken(Edits):
    """`refresh_token` is null or empty: the old one stays valid."""

    endpoints: ClassVar[tuple[str, ...]] = (TOKEN,)
    value: str | None = None

    def edit(self, body: Json, rotate_refresh_token: Callable[[], str]) -> Json:
        return body | {"refresh_token": self.value}
