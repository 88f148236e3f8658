"""The control API under `/_sim/`: demo and tests read and change the simulator's state.

Options come in the query or as a JSON body; responses are JSON. A wrong option gets a 400
`{"error": sentence}`. `control.Simulator` is the client.
"""

import datetime as dt
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from functools import lru_cache
from typing import Any, get_args

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from spotify_pipeline.loopback import SameOriginOnly
from spotify_pipeline.simulator.accounts import Account
from spotify_pipeline.simulator.faults.kinds import add_fault
from spotify_pipeline.simulator.http.responses import SHAPES, Json, json_response, timestamp
from spotify_pipeline.simulator.music.catalogue import TRACKS_PER_ARTIST
from spotify_pipeline.simulator.music.exports import (
    ExportedFile,
    Exporter,
    ExportFormat,
    ExportOddities,
    zipped,
)
from spotify_pipeline.simulator.music.feed import Entry
from spotify_pipeline.simulator.music.listeners import from_ms, to_ms
from spotify_pipeline.simulator.music.oddities import Oddities
from spotify_pipeline.simulator.records import ExportLine, LedgerPlay, ListenerInfo, Listing
from spotify_pipeline.simulator.state import Limits, SimulatorState

Handler = Callable[[SimulatorState, Json], Json | list[Json] | Response]


def control_routes(state: SimulatorState) -> list[Route]:
    """All routes under `/_sim/`. They return tokens, so web pages of other origins are refused."""
    handlers: dict[tuple[str, str], Handler] = {
        ("GET", "health"): health,
        ("GET", "clock"): read_clock,
        ("POST", "clock"): set_clock,
        ("GET", "listeners"): list_listeners,
        ("POST", "listeners"): add_listener,
        ("POST", "oddities"): set_oddities,
        ("GET", "ledger"): ledger,
        ("POST", "export"): export,
        ("POST", "export_books"): export_books,
        ("GET", "calls"): calls,
        ("DELETE", "calls"): forget_calls,
        ("GET", "tokens"): tokens,
        ("DELETE", "access_tokens"): expire_access_tokens,
        ("DELETE", "refresh_token"): revoke,
        ("POST", "refresh_token"): reconnect,
        ("GET", "faults"): list_faults,
        ("POST", "faults"): put_fault,
        ("DELETE", "faults"): clear_faults,
        ("POST", "limits"): set_limits,
        ("POST", "redirects"): register_redirects,
    }
    return [
        Route(
            f"/_sim/{path}",
            _endpoint(state, handler),
            methods=[method],
            middleware=[Middleware(SameOriginOnly)],
        )
        for (method, path), handler in handlers.items()
    ]


def _endpoint(state: SimulatorState, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            body = await request.json() if await request.body() else {}
            answer = handler(state, {**request.query_params, **body})
            return answer if isinstance(answer, Response) else json_response(answer)
        except KeyError as unknown:
            return json_response({"error": f"there is no {unknown}"}, 400)
        except (TypeError, ValueError, RecursionError) as wrong:
            return json_response({"error": str(wrong)}, 400)

    return endpoint


def health(state: SimulatorState, options: Json) -> Json:
    """What a client needs to connect to the simulator."""
    return {
        "seed": state.seed,
        "client_id": state.tokens.client_id,
        "client_secret": state.tokens.client_secret,
        "listeners": len(state.accounts),
        **read_clock(state, options),
    }


def read_clock(state: SimulatorState, options: Json) -> Json:
    """`now`, and whether the clock is stopped."""
    return {"now": timestamp(state.clock.now()), "fixed": state.clock.fixed is not None}


def set_clock(state: SimulatorState, options: Json) -> Json:
    """`{"now": instant}` stops the clock there, `{"now": null}` sets it to real time,
    `{"advance_seconds": n}` moves it and stops it there.
    """
    if "advance_seconds" in options:
        step = dt.timedelta(seconds=options["advance_seconds"])
        state.clock.fixed = state.clock.now() + step
    else:
        state.clock.fixed = _instant(options["now"]) if options["now"] is not None else None
    return read_clock(state, options)


def list_listeners(state: SimulatorState, options: Json) -> list[Json]:
    return [_info(account) for account in state.accounts.values()]


def add_listener(state: SimulatorState, options: Json) -> Json:
    """Adds a listener or replaces the one with the same `user_id`."""
    shape = options.get("shape", "development")
    if shape not in SHAPES:
        raise ValueError(f"shape {shape} is none of {', '.join(SHAPES)}")
    since = options.get("since")
    account = state.add(
        str(options["user_id"]),
        options.get("timezone", "UTC"),
        options.get("kind", "heavy"),
        options.get("display_name"),
        options.get("seed"),
        dt.date.fromisoformat(since) if since else None,
    )
    account.shape = shape
    account.longest_delay_ms = int(options.get("longest_delay_seconds", 0) * 1000)
    if "oddities" in options:
        account.oddities = Oddities.from_json(options["oddities"])
    if "scopes" in options:
        account.scopes = tuple(options["scopes"])
    return _info(account)


def set_oddities(state: SimulatorState, options: Json) -> Json:
    """`{"user_id", "oddities"}`: replaces the oddities of the listener's feed."""
    account = state.accounts[options["user_id"]]
    account.oddities = Oddities.from_json(options["oddities"])
    return account.oddities.to_json()


def ledger(state: SimulatorState, options: Json) -> list[Json]:
    """A listener's true plays in (`since`, `until`], oldest first, as of `at` (default: now)."""
    account = state.accounts[options["user_id"]]
    now = state.clock.now()
    at = min(_instant(options["at"]), now) if "at" in options else now
    until = _instant(options["until"]) if "until" in options else at
    since = _instant(options["since"]) if "since" in options else until - dt.timedelta(days=31)
    at_ms, until_ms = to_ms(at), to_ms(until)
    visible: dict[int, list[Listing]] = {}
    for item in account.feed.window(at_ms)[0]:
        visible.setdefault(item.play.end_ms, []).append(account.shown(item, at_ms))
    # Computed until `at`: re-stamping the last N plays depends on plays after `until`.
    return [
        _ledger_play(state, account, entry, at_ms, visible.get(entry.play.end_ms, ())).to_json()
        for entry in account.feed.entries(to_ms(since), at_ms)
        if entry.play.end_ms <= until_ms
    ]


def export(state: SimulatorState, options: Json) -> Response:
    """The data export of `user_id` as Spotify hands it out: a zip. See `_exported` for options."""
    return Response(zipped(_exported(state, options)), media_type="application/zip")


def export_books(state: SimulatorState, options: Json) -> list[Json]:
    """Every row of the same export with its truth, in the order of the files."""
    return [
        ExportLine(
            file.path,
            index,
            exported.fate,
            None if exported.played_ms is None else from_ms(exported.played_ms),
            exported.row,
        ).to_json()
        for file in _exported(state, options)
        for index, exported in enumerate(file.rows)
    ]


def _exported(state: SimulatorState, options: Json) -> list[ExportedFile]:
    """`format` is extended or account, `since` the first instant (default: the last year, which is
    also all that account data has), `era` the year of the format, `oddities` those of the export.
    """
    form = options.get("format", "extended")
    if form not in get_args(ExportFormat):
        raise ValueError(f"format {form} is none of {', '.join(get_args(ExportFormat))}")
    now = state.clock.now()
    year_ago = now - dt.timedelta(days=365)
    since = _instant(options["since"]) if options.get("since") else year_ago
    exporter = Exporter(
        state.accounts[options["user_id"]].feed,
        ExportOddities(**options.get("oddities", {})),
        options.get("era", "2024"),
        options.get("rows_per_file", 16_000),
    )
    first = max(since, year_ago) if form == "account" else since
    return _files(exporter, form, to_ms(first), to_ms(now))


@lru_cache(maxsize=1)
def _files(exporter: Exporter, form: ExportFormat, since: int, now: int) -> list[ExportedFile]:
    """Computed once for the archive and its books; not to be changed."""
    return exporter.files(form, since, now)


def calls(state: SimulatorState, options: Json) -> list[Json]:
    """Every call so far, oldest first; `at` is real time in Unix seconds."""
    return [call._asdict() for call in state.calls]


def forget_calls(state: SimulatorState, options: Json) -> Json:
    """Empties the log of calls; calls that are still being answered are not logged either."""
    forgotten = len(state.calls)
    state.calls.clear()
    state.calls_since = time.time()
    return {"forgotten": forgotten}


def tokens(state: SimulatorState, options: Json) -> Json:
    """Every token issued so far, for tests that search for leaked ones."""
    return {"tokens": state.tokens.issued()}


def expire_access_tokens(state: SimulatorState, options: Json) -> Json:
    """Expires all access tokens, or those of `user_id`."""
    return {"expired": state.tokens.expire_access(options.get("user_id"))}


def revoke(state: SimulatorState, options: Json) -> Json:
    """Revokes the refresh token of `user_id`, as when the user removes the app."""
    account = state.accounts[options["user_id"]]
    state.tokens.revoke(account.user_id)
    state.tokens.expire_access(account.user_id)
    return _info(account)


def reconnect(state: SimulatorState, options: Json) -> Json:
    """Rotates the refresh token of `user_id`, as after connecting again; revokes the old one."""
    account = state.accounts[options["user_id"]]
    state.rotate_refresh_token(account)
    return _info(account)


def list_faults(state: SimulatorState, options: Json) -> list[Json]:
    """All active faults, with the number of matching calls and hits."""
    return [rule.to_json() for rule in state.faults.rules]


def put_fault(state: SimulatorState, options: Json) -> Json:
    """`{"kind", "options", "endpoint", "user_id", "times", "every"}`; only kind is required."""
    return add_fault(state.faults, **options).to_json()


def clear_faults(state: SimulatorState, options: Json) -> Json:
    """Removes the fault `number`, or all."""
    number = options.get("number")
    return {"cleared": state.faults.clear(None if number is None else int(number))}


def set_limits(state: SimulatorState, options: Json) -> Json:
    """`{"calls_per_30s": n, "calls_per_day": n}`; no number: no limit. Resets the counts."""
    state.limits = Limits(options.get("calls_per_30s"), options.get("calls_per_day"))
    return options


def register_redirects(state: SimulatorState, options: Json) -> Json:
    """`{"uris": [address, …]}`: the only allowed redirect addresses; null: any safe one."""
    state.redirect_uris = None if options["uris"] is None else frozenset(options["uris"])
    return options


def _info(account: Account) -> Json:
    info = ListenerInfo(
        user_id=account.user_id,
        refresh_token=account.refresh_token,
        timezone=account.listener.timezone,
        display_name=account.display_name,
        account_id=account.account_id,
        kind=account.listener.kind.name,
        shape=account.shape,
    )
    return asdict(info)


def _ledger_play(
    state: SimulatorState, account: Account, entry: Entry, at_ms: int, visible_as: Iterable[Listing]
) -> LedgerPlay:
    play = entry.play
    track = state.catalogue.track(play.track)
    artist = state.catalogue.artist(play.track // TRACKS_PER_ARTIST)
    visible = tuple(visible_as)
    served = tuple(account.served.get(play.end_ms, {}).values())
    return LedgerPlay(
        played_at=from_ms(play.end_ms),
        started_at=from_ms(play.start_ms),
        published_at=from_ms(entry.listed_ms),
        published=entry.listed_ms <= at_ms and not entry.missing,
        visible=bool(visible),
        served=bool(served),
        track_id=track.spotify_id,
        track_name=track.name,
        duration_ms=account.feed.duration_ms(play.track),
        artist_id=artist.spotify_id,
        artist_name=artist.name,
        isrc=track.isrc,
        heard_ms=play.end_ms - play.start_ms,
        missing=entry.missing,
        vanished=entry.gone_ms is not None and entry.gone_ms <= at_ms,
        visible_as=visible,
        served_as=served,
    )


def _instant(text: Any) -> dt.datetime:
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("an instant needs an offset, such as Z")
    return moment.astimezone(dt.UTC)
