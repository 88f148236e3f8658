"""The control of a simulator: its clock, listeners, faults, ledger of plays and log of calls.

`Control` is the one declaration: http/control_api serves its methods, `Simulator` calls them.
"""

import datetime as dt
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from inspect import isfunction, signature
from typing import Any, get_type_hints

import requests
from pydantic import AwareDatetime, TypeAdapter
from pydantic_core import to_jsonable_python

from spotify_pipeline.errors import PipelineError
from spotify_pipeline.simulator.accounts import Account
from spotify_pipeline.simulator.faults.base import Fault
from spotify_pipeline.simulator.faults.kinds import name_of
from spotify_pipeline.simulator.http.responses import Json, Shape
from spotify_pipeline.simulator.music.catalogue import TRACKS_PER_ARTIST
from spotify_pipeline.simulator.music.exports import (
    Era,
    Exporter,
    ExportFormat,
    ExportOddities,
    zipped,
)
from spotify_pipeline.simulator.music.feed import Entry
from spotify_pipeline.simulator.music.listeners import from_ms, to_ms
from spotify_pipeline.simulator.music.oddities import Oddities
from spotify_pipeline.simulator.records import (
    CallRecord,
    Export,
    ExportLine,
    LedgerPlay,
    ListenerInfo,
    Listing,
)
from spotify_pipeline.simulator.state import Limits, SimulatorState, pipeline_environment

__all__ = [
    "CallRecord",
    "Control",
    "Export",
    "ExportLine",
    "LedgerPlay",
    "ListenerInfo",
    "Listing",
    "Simulator",
    "SimulatorError",
]

_TIMEOUT_SECONDS = 60.0
_YEAR = dt.timedelta(days=365)


class SimulatorError(PipelineError):
    """The simulator refused a control call, with the simulator's message."""


class Control:
    """What the demo and tests do with a simulator; every public method is served over HTTP.

    Raises KeyError for an unknown user, kind of listener or time zone, ValueError with a sentence
    for other wrong arguments.
    """

    def __init__(self, state: SimulatorState) -> None:
        self._state = state

    def credentials(self) -> tuple[int, str, str]:
        """The seed, and the id and secret of the developer app."""
        return self._state.seed, self._state.tokens.client_id, self._state.tokens.client_secret

    def now(self) -> dt.datetime:
        """The simulated time, UTC."""
        return self._state.now()

    def set_clock(self, now: AwareDatetime | None) -> None:
        """Stops the clock at an instant (to the millisecond), or sets it to real time (None)."""
        self._state.stopped_at = now and from_ms(to_ms(now))

    def advance(self, step: dt.timedelta) -> dt.datetime:
        """Moves the clock and stops it there; returns the new time."""
        self.set_clock(self.now() + step)
        return self.now()

    def add_listener(
        self,
        user_id: str,
        timezone: str = "UTC",
        *,
        kind: str = "heavy",
        seed: int | None = None,
        display_name: str | None = None,
        shape: Shape = "development",
        since: dt.date | None = None,
        longest_delay: dt.timedelta = dt.timedelta(0),
        scopes: Sequence[str] | None = None,
        oddities: Oddities | None = None,
    ) -> ListenerInfo:
        """Adds a listener, or replaces the one with that id.

        `kind` is a key of `music.listeners.LISTENER_KINDS`; `seed` defaults to the simulator's;
        `since` is the first local date with plays; plays appear in the feed up to `longest_delay`
        after their end; `oddities` are those of the feed (None: the 7-day window only).
        """
        account = self._state.add(user_id, timezone, kind, display_name, seed, since)
        account.shape = shape
        account.longest_delay_ms = longest_delay // dt.timedelta(milliseconds=1)
        account.oddities = oddities or account.oddities
        account.scopes = account.scopes if scopes is None else tuple(scopes)
        return _info(account)

    def set_oddities(self, user_id: str, oddities: Oddities) -> None:
        """Replaces the oddities of a listener's feed; the ledger keeps what was already served.

        Plays are listed as if the new oddities had always been active.
        """
        self._state.accounts[user_id].oddities = oddities

    def listeners(self) -> list[ListenerInfo]:
        """All listeners, in the order they were added."""
        return [_info(account) for account in self._state.accounts.values()]

    def ledger(
        self,
        user_id: str,
        since: AwareDatetime | None = None,
        until: AwareDatetime | None = None,
        *,
        at: AwareDatetime | None = None,
    ) -> list[LedgerPlay]:
        """A listener's true plays in (since, until], oldest first.

        `published`, `visible`, `vanished` and `visible_as` are as of `at`: what a call at that
        instant was shown. `at` defaults to the simulator's now and is never after it. Plays that
        ended after `at` are left out; `until` defaults to `at`, `since` to 31 days before `until`.
        """
        account = self._state.accounts[user_id]
        at = min(at or self.now(), self.now())
        until = until or at
        at_ms, until_ms = to_ms(at), to_ms(until)
        visible: dict[int, list[Listing]] = {}
        for item in account.feed.window(at_ms)[0]:
            visible.setdefault(item.play.end_ms, []).append(account.shown(item, at_ms))
        # Computed until `at`: re-stamping the last N plays depends on plays after `until`.
        return [
            _ledger_play(account, entry, at_ms, tuple(visible.get(entry.play.end_ms, ())))
            for entry in account.feed.entries(to_ms(since or until - dt.timedelta(days=31)), at_ms)
            if entry.play.end_ms <= until_ms
        ]

    def export(
        self,
        user_id: str,
        *,
        format: ExportFormat = "extended",
        since: AwareDatetime | None = None,
        era: Era = "2024",
        oddities: ExportOddities | None = None,
        rows_per_file: int = 16_000,
    ) -> Export:
        """The data export of a listener's life until now; by default with all oddities.

        `since`: what ended after it (None: the last year); account data has the last year at most.
        `era`: the year of the format. `rows_per_file` is 16,000 at Spotify.
        """
        now = self.now()
        since = since or now - _YEAR
        first = max(since, now - _YEAR) if format == "account" else since
        feed = self._state.accounts[user_id].feed
        exporter = Exporter(feed, oddities or ExportOddities(), era, rows_per_file)
        files = exporter.files(format, to_ms(first), to_ms(now))
        books = [
            ExportLine(
                file.path,
                index,
                exported.fate,
                None if exported.played_ms is None else from_ms(exported.played_ms),
                exported.row,
            )
            for file in files
            for index, exported in enumerate(file.rows)
        ]
        return Export(zipped(files), books)

    def calls(self) -> list[CallRecord]:
        """Every call to Spotify so far, oldest first (the last 200,000)."""
        return list(self._state.calls)

    def forget_calls(self) -> None:
        """Empties the log of calls; calls that are still being answered are not logged either."""
        self._state.calls.clear()
        self._state.calls_since = time.time()

    def tokens(self) -> list[str]:
        """Every refresh and access token issued so far, for tests that search for leaked ones."""
        return self._state.tokens.issued()

    def expire_access_tokens(self, user_id: str | None = None) -> int:
        """Expires access tokens (all, or one user's); returns how many."""
        return self._state.tokens.expire_access(user_id)

    def revoke(self, user_id: str) -> None:
        """Revokes a user's tokens, as when the user removes the app."""
        account = self._state.accounts[user_id]
        self._state.tokens.revoke(account.user_id)
        self._state.tokens.expire_access(account.user_id)

    def reconnect(self, user_id: str) -> ListenerInfo:
        """Gives a user a new refresh token, as after connecting again; the old one is revoked."""
        account = self._state.accounts[user_id]
        self._state.rotate_refresh_token(account)
        return _info(account)

    def add_fault_of_kind(
        self,
        kind: str,
        options: Json | None = None,
        *,
        endpoint: str | None = None,
        user_id: str | None = None,
        times: int | None = None,
        every: int = 1,
    ) -> int:
        """Activates a fault by the name of its kind; see `Simulator.add_fault`."""
        rule = self._state.faults.add(
            kind, options or {}, endpoint=endpoint, user_id=user_id, times=times, every=every
        )
        return rule.number

    def faults(self) -> list[Json]:
        """The active faults, each with `seen` (matching calls) and `hits`."""
        return [rule.to_json() for rule in self._state.faults.rules]

    def clear_faults(self, number: int | None = None) -> None:
        """Removes one fault, or all."""
        self._state.faults.clear(number)

    def set_limits(
        self, calls_per_30s: int | None = None, calls_per_day: int | None = None
    ) -> None:
        """Sets the app's rate limits (None: no limit) and resets the counts."""
        self._state.limits = Limits(calls_per_30s, calls_per_day)

    def register_redirects(self, uris: Sequence[str] | None) -> None:
        """Sets the app's redirect addresses (None: any safe one)."""
        self._state.redirect_uris = None if uris is None else frozenset(uris)


METHODS: dict[str, Callable[..., Any]] = {
    name: method
    for name, method in vars(Control).items()
    if isfunction(method) and not name.startswith("_")
}


class Simulator(Control):
    """The control of a simulator in another process, at an address such as http://127.0.0.1:8765.

    Methods raise SimulatorError when the simulator refuses the call.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy for the internet cannot reach loopback
        # The server closes a connection that was idle for 5 s, perhaps just as we use it again.
        self._session.headers["Connection"] = "close"
        for name, method in METHODS.items():
            setattr(self, name, partial(self._call, method))
        self.seed, self.client_id, self.client_secret = self.credentials()

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that point the pipeline at this simulator."""
        return pipeline_environment(self.url, self.client_id, self.client_secret)

    def add_fault(
        self,
        fault: Fault,
        *,
        endpoint: str | None = None,
        user_id: str | None = None,
        times: int | None = None,
        every: int = 1,
    ) -> int:
        """Activates a fault and returns its number.

        It hits every `every`-th call to `endpoint` (None: all that the kind supports) by `user_id`
        (None: all), at most `times` times (None: until cleared). Faults are the dataclasses of
        `faults.refusals`, `faults.edits` and `faults.wire`.
        """
        kind, options = name_of(type(fault)), to_jsonable_python(fault)
        return self.add_fault_of_kind(
            kind, options, endpoint=endpoint, user_id=user_id, times=times, every=every
        )

    def _call(self, method: Callable[..., Any], *args: Any, **named: Any) -> Any:
        arguments = signature(method).bind(self, *args, **named).arguments
        del arguments["self"]
        response = self._session.post(
            f"{self.url}/_sim/{method.__name__}",
            json=to_jsonable_python(arguments),
            timeout=_TIMEOUT_SECONDS,
        )
        if response.status_code != 200:
            raise SimulatorError(response.json()["error"])
        return _result_of(method).validate_json(response.content)


@cache
def _result_of(method: Callable[..., Any]) -> TypeAdapter[Any]:
    """Reads what a method returned from JSON."""
    return TypeAdapter(get_type_hints(method)["return"])


def _info(account: Account) -> ListenerInfo:
    return ListenerInfo(
        user_id=account.user_id,
        refresh_token=account.refresh_token,
        timezone=account.listener.timezone,
        display_name=account.display_name,
        account_id=account.account_id,
        kind=account.listener.kind.name,
        shape=account.shape,
    )


def _ledger_play(
    account: Account, entry: Entry, at_ms: int, visible_as: tuple[Listing, ...]
) -> LedgerPlay:
    play, catalogue = entry.play, account.listener.catalogue
    track = catalogue.track(play.track)
    artist = catalogue.artist(play.track // TRACKS_PER_ARTIST)
    served_as = tuple(account.served.get(play.end_ms, {}).values())
    return LedgerPlay(
        played_at=from_ms(play.end_ms),
        started_at=from_ms(play.start_ms),
        published_at=from_ms(entry.listed_ms),
        published=entry.listed_ms <= at_ms and not entry.missing,
        visible=bool(visible_as),
        served=bool(served_as),
        track_id=track.spotify_id,
        track_name=track.name,
        duration_ms=account.feed.duration_ms(play.track),
        artist_id=artist.spotify_id,
        artist_name=artist.name,
        isrc=track.isrc,
        heard_ms=play.end_ms - play.start_ms,
        missing=entry.missing,
        vanished=entry.gone_ms is not None and entry.gone_ms <= at_ms,
        visible_as=visible_as,
        served_as=served_as,
    )
