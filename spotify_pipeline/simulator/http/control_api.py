"""The interface under `/_sim/` by which demo and tests steer the world and read its books.

Bodies and answers are JSON; a wrong one is answered 400 `{"error": sentence}`. `control.Simulator`
speaks it.
"""

import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from spotify_pipeline.loopback import SameOriginOnly
from spotify_pipeline.simulator.accounts import Account, Served
from spotify_pipeline.simulator.faults.kinds import add_fault
from spotify_pipeline.simulator.http.limits import Limits
from spotify_pipeline.simulator.http.responses import json_response
from spotify_pipeline.simulator.http.shapes import SHAPES, Json, timestamp
from spotify_pipeline.simulator.music.catalogue import TRACKS_PER_ARTIST
from spotify_pipeline.simulator.music.feed import Entry
from spotify_pipeline.simulator.music.listeners import from_ms, to_ms
from spotify_pipeline.simulator.music.oddities import Oddities
from spotify_pipeline.simulator.state import World

Handler = Callable[[World, Request, Json], Json | list[Json]]


def control_routes(world: World) -> list[Route]:
    """All routes under `/_sim/`. They hand out tokens: closed to web pages of other origins."""
    handlers: dict[tuple[str, str], Handler] = {
        ("GET", "health"): health,
        ("GET", "clock"): read_clock,
        ("POST", "clock"): set_clock,
        ("GET", "listeners"): list_listeners,
        ("POST", "listeners"): add_listener,
        ("POST", "oddities"): set_oddities,
        ("GET", "ledger"): ledger,
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
            _endpoint(world, handler),
            methods=[method],
            middleware=[Middleware(SameOriginOnly)],
        )
        for (method, path), handler in handlers.items()
    ]


def _endpoint(world: World, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            body = await request.json() if await request.body() else {}
            return json_response(handler(world, request, body))
        except KeyError as unknown:
            return json_response({"error": f"there is no {unknown}"}, 400)
        except (TypeError, ValueError) as wrong:
            return json_response({"error": str(wrong)}, 400)

    return endpoint


def health(world: World, request: Request, body: Json) -> Json:
    """Who the simulator is: what a client needs to talk to it."""
    return {
        "seed": world.seed,
        "client_id": world.tokens.client_id,
        "client_secret": world.tokens.client_secret,
        "listeners": len(world.accounts),
        **read_clock(world, request, body),
    }


def read_clock(world: World, request: Request, body: Json) -> Json:
    """`now`, and whether the world stands still."""
    return {"now": timestamp(world.clock.now()), "fixed": world.clock.fixed is not None}


def set_clock(world: World, request: Request, body: Json) -> Json:
    """`{"now": instant}` stops the world there, `{"now": null}` sets it to real time,
    `{"advance_seconds": n}` moves a world that stands still."""
    if "advance_seconds" in body:
        step = dt.timedelta(seconds=body["advance_seconds"])
        world.clock.fixed = world.clock.now() + step
    else:
        world.clock.fixed = _instant(body["now"]) if body["now"] is not None else None
    return read_clock(world, request, body)


def list_listeners(world: World, request: Request, body: Json) -> list[Json]:
    """All listeners."""
    return [_shown(account) for account in world.accounts.values()]


def add_listener(world: World, request: Request, body: Json) -> Json:
    """Adds a listener or replaces the one of the same `user_id`."""
    shape = body.get("shape", "development")
    if shape not in SHAPES:
        raise ValueError(f"shape {shape} is none of {', '.join(SHAPES)}")
    since = body.get("since")
    account = world.add(
        str(body["user_id"]),
        body.get("timezone", "UTC"),
        body.get("person", "heavy"),
        body.get("display_name"),
        body.get("seed"),
        dt.date.fromisoformat(since) if since else None,
    )
    account.shape = shape
    account.longest_delay_ms = int(body.get("longest_delay_seconds", 0) * 1000)
    if "oddities" in body:
        account.oddities = Oddities.from_json(body["oddities"])
    if "scopes" in body:
        account.scopes = tuple(body["scopes"])
    return _shown(account)


def set_oddities(world: World, request: Request, body: Json) -> Json:
    """`{"user_id", "oddities"}`: the listener's feed has these from now on, and no others."""
    account = world.accounts[body["user_id"]]
    account.oddities = Oddities.from_json(body["oddities"])
    return account.oddities.to_json()


def ledger(world: World, request: Request, body: Json) -> list[Json]:
    """What a listener played in (`since`, `until`], oldest first, as of `at` (default: now)."""
    query = request.query_params
    account = world.accounts[query["user_id"]]
    now = world.clock.now()
    at = min(_instant(query["at"]), now) if "at" in query else now
    until = _instant(query["until"]) if "until" in query else at
    since = _instant(query["since"]) if "since" in query else until - dt.timedelta(days=31)
    at_ms, until_ms = to_ms(at), to_ms(until)
    visible: dict[int, list[Served]] = {}
    for item in account.feed.window(at_ms)[0]:
        visible.setdefault(item.play.end_ms, []).append(account.shown(item, at_ms))
    # Computed until `at`: a re-stamping of the last N plays depends on plays after `until`.
    return [
        _line(world, account, entry, at_ms, visible.get(entry.play.end_ms, []))
        for entry in account.feed.entries(to_ms(since), at_ms)
        if entry.play.end_ms <= until_ms
    ]


def calls(world: World, request: Request, body: Json) -> list[Json]:
    """Every call so far, oldest first; `at` is real time in Unix seconds."""
    return [call._asdict() for call in world.calls]


def forget_calls(world: World, request: Request, body: Json) -> Json:
    """Empties the log of calls."""
    forgotten = len(world.calls)
    world.calls.clear()
    return {"forgotten": forgotten}


def tokens(world: World, request: Request, body: Json) -> Json:
    """Every token that was issued, for looking whether one of them leaked."""
    return {"tokens": world.tokens.issued()}


def expire_access_tokens(world: World, request: Request, body: Json) -> Json:
    """Lets all access tokens expire, or those of `user_id`."""
    return {"expired": world.tokens.expire_access(request.query_params.get("user_id"))}


def revoke(world: World, request: Request, body: Json) -> Json:
    """Ends the refresh token of `user_id`, as when the person removes the app."""
    account = world.accounts[request.query_params["user_id"]]
    world.tokens.revoke(account.user_id)
    world.tokens.expire_access(account.user_id)
    return _shown(account)


def reconnect(world: World, request: Request, body: Json) -> Json:
    """A new refresh token for `user_id`, as after connecting again; the old one is revoked."""
    account = world.accounts[body["user_id"]]
    world.rotate_refresh_token(account)
    return _shown(account)


def list_faults(world: World, request: Request, body: Json) -> list[Json]:
    """All faults in force, with how often each was seen and hit."""
    return [rule.shown() for rule in world.faults.rules]


def put_fault(world: World, request: Request, body: Json) -> Json:
    """`{"kind", "options", "endpoint", "user_id", "times", "every"}`; all but kind can be left
    out."""
    return add_fault(world.faults, **body).shown()


def clear_faults(world: World, request: Request, body: Json) -> Json:
    """Ends the fault `number`, or all."""
    number = request.query_params.get("number")
    return {"cleared": world.faults.clear(None if number is None else int(number))}


def set_limits(world: World, request: Request, body: Json) -> Json:
    """`{"calls_per_30s": n, "calls_per_day": n}`; without a number there is no limit. Starts to
    count anew."""
    world.limits = Limits(body.get("calls_per_30s"), body.get("calls_per_day"))
    return body


def register_redirects(world: World, request: Request, body: Json) -> Json:
    """`{"uris": [address, …]}`: where alone a browser is sent back to; null: anywhere safe."""
    world.redirect_uris = None if body["uris"] is None else frozenset(body["uris"])
    return body


def _shown(account: Account) -> Json:
    return {
        "user_id": account.user_id,
        "refresh_token": account.refresh_token,
        "timezone": account.listener.timezone,
        "display_name": account.display_name,
        "account_id": account.account_id,
        "person": account.listener.person.name,
        "shape": account.shape,
    }


def _line(
    world: World, account: Account, entry: Entry, at_ms: int, visible_as: list[Served]
) -> Json:
    play = entry.play
    track = world.catalogue.track(play.track)
    artist = world.catalogue.artist(play.track // TRACKS_PER_ARTIST)
    served_as = account.served.get(play.end_ms, {}).values()
    return {
        "played_at": timestamp(from_ms(play.end_ms)),
        "started_at": timestamp(from_ms(play.start_ms)),
        "published_at": timestamp(from_ms(entry.listed_ms)),
        "published": entry.listed_ms <= at_ms and not entry.missing,
        "visible": bool(visible_as),
        "served": bool(served_as),
        "track_id": track.spotify_id,
        "track_name": track.name,
        "duration_ms": account.feed.duration_ms(play.track),
        "artist_id": artist.spotify_id,
        "artist_name": artist.name,
        "isrc": track.isrc,
        "heard_ms": play.end_ms - play.start_ms,
        "missing": entry.missing,
        "vanished": entry.gone_ms is not None and entry.gone_ms <= at_ms,
        "visible_as": [_shown_as(served) for served in visible_as],
        "served_as": [_shown_as(served) for served in served_as],
    }


def _shown_as(served: Served) -> Json:
    return {
        "played_at": timestamp(from_ms(served.played_ms)),
        "track_id": served.track_id,
        "duration_ms": served.duration_ms,
    }


def _instant(text: Any) -> dt.datetime:
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("an instant needs an offset, such as Z")
    return moment.astimezone(dt.UTC)
