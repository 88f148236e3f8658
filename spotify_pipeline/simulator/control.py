"""Client of the simulator's control API: moves the clock, adds listeners and faults, reads the
ledger of plays and the log of calls. The server is http/control_api.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypedDict, Unpack

import requests

from spotify_pipeline.errors import PipelineError
from spotify_pipeline.simulator.faults.base import Fault
from spotify_pipeline.simulator.faults.kinds import name_of
from spotify_pipeline.simulator.http.responses import Json, Shape, timestamp
from spotify_pipeline.simulator.music.exports import Era, ExportFormat, ExportOddities
from spotify_pipeline.simulator.music.oddities import Oddities
from spotify_pipeline.simulator.records import (
    CallRecord,
    ExportLine,
    LedgerPlay,
    ListenerInfo,
    Listing,
)
from spotify_pipeline.simulator.state import pipeline_environment

__all__ = [
    "CallRecord",
    "ExportLine",
    "LedgerPlay",
    "ListenerInfo",
    "Listing",
    "Simulator",
    "SimulatorError",
]

_TIMEOUT_SECONDS = 60.0


class SimulatorError(PipelineError):
    """The simulator refused a control call, with the simulator's message."""


class ExportOptions(TypedDict, total=False):
    """Which export: by default the extended one of 2024 with the last year, with all oddities.

    `since`: what ended after it; account data has the last year at most. `era`: the year of the
    format. `rows_per_file` is 16,000 at Spotify.
    """

    format: ExportFormat
    since: dt.datetime
    era: Era
    oddities: ExportOddities
    rows_per_file: int


def _export_body(user_id: str, options: ExportOptions) -> Json:
    body: Json = {"user_id": user_id, **options}
    if "since" in options:
        body["since"] = timestamp(options["since"])
    if "oddities" in options:
        body["oddities"] = asdict(options["oddities"])
    return body


class Simulator:
    """Client of a simulator at an address such as http://127.0.0.1:8765. Raises SimulatorError."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy for the internet cannot reach loopback
        # The server closes a connection that was idle for 5 s, perhaps just as we use it again.
        self._session.headers["Connection"] = "close"
        about = self._call("GET", "health")
        self.seed: int = about["seed"]
        self.client_id: str = about["client_id"]
        self.client_secret: str = about["client_secret"]

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that point the pipeline at this simulator."""
        return pipeline_environment(self.url, self.client_id, self.client_secret)

    def now(self) -> dt.datetime:
        """The simulated time, UTC."""
        return dt.datetime.fromisoformat(self._call("GET", "clock")["now"])

    def set_clock(self, now: dt.datetime | None) -> None:
        """Stops the clock at an instant (to the millisecond), or sets it to real time (None)."""
        self._call("POST", "clock", {"now": now and timestamp(now)})

    def advance(self, step: dt.timedelta) -> dt.datetime:
        """Moves the clock and stops it there; returns the new time."""
        answer = self._call("POST", "clock", {"advance_seconds": step.total_seconds()})
        return dt.datetime.fromisoformat(answer["now"])

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

        `kind` is a key of `listener_kinds.LISTENER_KINDS`; `seed` defaults to the simulator's;
        `since` is the first local date with plays; plays appear in the feed up to `longest_delay`
        after their end; `oddities` are those of the feed (None: the 7-day window only).
        """
        body: Json = {
            "user_id": user_id,
            "timezone": timezone,
            "kind": kind,
            "seed": seed,
            "display_name": display_name,
            "shape": shape,
            "since": since and since.isoformat(),
            "longest_delay_seconds": longest_delay.total_seconds(),
        }
        if scopes is not None:
            body["scopes"] = list(scopes)
        if oddities is not None:
            body["oddities"] = oddities.to_json()
        return ListenerInfo(**self._call("POST", "listeners", body))

    def set_oddities(self, user_id: str, oddities: Oddities) -> None:
        """Replaces the oddities of a listener's feed; the ledger keeps what was already served.

        Plays are listed as if the new oddities had always been active.
        """
        self._call("POST", "oddities", {"user_id": user_id, "oddities": oddities.to_json()})

    def listeners(self) -> list[ListenerInfo]:
        """All listeners, in the order they were added."""
        return [ListenerInfo(**shown) for shown in self._call("GET", "listeners")]

    def ledger(
        self,
        user_id: str,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        *,
        at: dt.datetime | None = None,
    ) -> list[LedgerPlay]:
        """A listener's true plays in (since, until], oldest first.

        `published`, `visible`, `vanished` and `visible_as` are as of `at`: what a call at that
        instant was shown. `at` defaults to the simulator's now and is never after it. Plays that
        ended after `at` are left out; `until` defaults to `at`, `since` to 31 days before `until`.
        """
        times = {"since": since, "until": until, "at": at}
        query = {"user_id": user_id}
        query |= {name: timestamp(time) for name, time in times.items() if time is not None}
        return [LedgerPlay.from_json(line) for line in self._call("GET", "ledger", query=query)]

    def export(self, user_id: str, **options: Unpack[ExportOptions]) -> bytes:
        """The data export of a listener's life until now, as Spotify hands it out: a zip."""
        answer: bytes = self._request("POST", "export", _export_body(user_id, options)).content
        return answer

    def export_books(self, user_id: str, **options: Unpack[ExportOptions]) -> list[ExportLine]:
        """Every row of the same export, in the order of the files, with its truth."""
        lines = self._call("POST", "export_books", _export_body(user_id, options))
        return [ExportLine.from_json(line) for line in lines]

    def calls(self) -> list[CallRecord]:
        """Every call to Spotify so far, oldest first (the last 200,000)."""
        calls = self._call("GET", "calls")
        return [CallRecord(**{**call, "faults": tuple(call["faults"])}) for call in calls]

    def forget_calls(self) -> None:
        """Empties the log of calls."""
        self._call("DELETE", "calls")

    def tokens(self) -> list[str]:
        """Every refresh and access token issued so far."""
        issued: list[str] = self._call("GET", "tokens")["tokens"]
        return issued

    def expire_access_tokens(self, user_id: str | None = None) -> int:
        """Expires access tokens (all, or one user's); returns how many."""
        expired: int = self._call("DELETE", "access_tokens", query={"user_id": user_id})["expired"]
        return expired

    def revoke(self, user_id: str) -> None:
        """Revokes a user's tokens, as when the user removes the app."""
        self._call("DELETE", "refresh_token", query={"user_id": user_id})

    def reconnect(self, user_id: str) -> ListenerInfo:
        """Gives a user a new refresh token, as after connecting again; the old one is revoked."""
        return ListenerInfo(**self._call("POST", "refresh_token", {"user_id": user_id}))

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
        rule = self._call(
            "POST",
            "faults",
            {
                "kind": name_of(type(fault)),
                "options": asdict(fault),
                "endpoint": endpoint,
                "user_id": user_id,
                "times": times,
                "every": every,
            },
        )
        number: int = rule["number"]
        return number

    def faults(self) -> list[Json]:
        """The active faults, each with `seen` (matching calls) and `hits`."""
        rules: list[Json] = self._call("GET", "faults")
        return rules

    def clear_faults(self, number: int | None = None) -> None:
        """Removes one fault, or all."""
        self._call("DELETE", "faults", query={"number": number})

    def set_limits(
        self, calls_per_30s: int | None = None, calls_per_day: int | None = None
    ) -> None:
        """Sets the app's rate limits (None: no limit) and resets the counts."""
        limits = {"calls_per_30s": calls_per_30s, "calls_per_day": calls_per_day}
        self._call("POST", "limits", limits)

    def register_redirects(self, uris: Sequence[str] | None) -> None:
        """Sets the app's redirect addresses (None: any safe one)."""
        self._call("POST", "redirects", {"uris": uris and list(uris)})

    def _call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        query: Mapping[str, str | int | None] | None = None,
    ) -> Any:
        return self._request(method, path, body, query).json()

    def _request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        query: Mapping[str, str | int | None] | None = None,
    ) -> requests.Response:
        answer = self._session.request(
            method, f"{self.url}/_sim/{path}", json=body, params=query, timeout=_TIMEOUT_SECONDS
        )
        if answer.status_code != 200:
            raise SimulatorError(answer.json().get("error", f"HTTP {answer.status_code}"))
        return answer
