"""The Web API's response bodies, without HTTP: functions of state, account and query.

Every error is raised as `Refusal` with the status and the body that Spotify sends.
"""

from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import urlencode

from spotify_pipeline.simulator.accounts import RANGE_DAYS, Account, TopKind
from spotify_pipeline.simulator.http.responses import Json, Refusal, play, profile, timestamp
from spotify_pipeline.simulator.music.feed import Item
from spotify_pipeline.simulator.state import SimulatorState

SCOPE_OF = {
    "recently_played": "user-read-recently-played",
    "top_artists": "user-top-read",
    "top_tracks": "user-top-read",
}


def authenticate(state: SimulatorState, authorization: str | None, endpoint: str) -> Account:
    """The account a bearer token belongs to; checks the endpoint's scope."""
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Refusal.api(401, "No token provided")
    owner = state.tokens.owner_of_access(token)
    if owner is False:
        raise Refusal.api(401, "The access token expired")
    account = state.accounts.get(owner or "")
    if account is None:
        raise Refusal.api(401, "Invalid access token")
    if SCOPE_OF.get(endpoint, "") not in ("", *account.scopes):
        raise Refusal.api(403, "Insufficient client scope")
    return account


def me(
    state: SimulatorState, account: Account, query: Mapping[str, str], url: str
) -> tuple[Json, list[Item]]:
    """The body of /v1/me."""
    names = account.user_id, account.account_id, account.display_name
    return profile(*names, account.shape), []


def recently_played(
    state: SimulatorState, account: Account, query: Mapping[str, str], url: str
) -> tuple[Json, list[Item]]:
    """A page of the last 50 plays, newest first, and the plays on it as the feed lists them.

    `next` is set as long as Spotify has anything older, although nothing older can be fetched: the
    page after the last one is empty.
    """
    limit = _integer(query, "limit", 20, 1, 50)
    if "after" in query and "before" in query:
        raise Refusal.api(400, "Cannot specify both before and after parameters")
    after, before = _integer(query, "after", 0), _integer(query, "before", 0)
    now_ms, feed = state.now_ms(), account.feed
    window, older = feed.window(now_ms)
    account.pages += 1
    matching = [
        item
        for item in feed.in_order_of_call(window, account.pages)
        if item.stamp_ms > after and ("before" not in query or item.stamp_ms < before)
    ]
    page = matching[:limit]
    cursors = following = None
    if page:
        newest, oldest = str(page[0].stamp_ms), str(page[-1].stamp_ms)
        cursors = {"after": newest, "before": oldest}
        if "after" in query:
            following = {"after": newest, "limit": limit}
        elif older or len(matching) > limit:
            following = {"before": oldest, "limit": limit}
    answer = {
        "items": [_item(state, account, item, now_ms) for item in page],
        "next": following and f"{url}?{urlencode(following)}",
        "cursors": cursors,
        "limit": limit,
        "href": f"{url}?{urlencode({**query, 'limit': limit})}",
    }
    return answer, page


def readable_items(account: Account, items: list[Item], body: object, now_ms: int) -> list[Item]:
    """Those of `items` that a client can read from the body after faults changed it."""
    sent = body.get("items") if isinstance(body, dict) else None
    readable = set()
    for item in sent if isinstance(sent, list) else ():
        track = item.get("track") if isinstance(item, dict) else None
        if isinstance(track, dict) and track.get("artists") and not track.get("is_local"):
            readable.add((item["played_at"], track.get("id")))
    return [
        item
        for item in items
        for shown in [account.shown(item, now_ms)]
        if (timestamp(shown.played_at), shown.track_id) in readable
    ]


def top(
    kind: TopKind, state: SimulatorState, account: Account, query: Mapping[str, str], url: str
) -> tuple[Json, list[Item]]:
    time_range = query.get("time_range", "medium_term")
    if time_range not in RANGE_DAYS:
        raise Refusal.api(400, "Invalid time range")
    limit = _integer(query, "limit", 20, 1, 50)
    offset = _integer(query, "offset", 0, 0, 10_000)
    best = account.top(kind, time_range, state.now())
    now_ms, feed = state.now_ms(), account.feed

    def draw(number: int) -> Json:
        if kind == "artists":
            return state.shapes.artist(number, account.shape)
        return state.shapes.track_as(number, feed.track(number, now_ms), account.shape)

    def page(start: int) -> str:
        return f"{url}?{urlencode({'time_range': time_range, 'limit': limit, 'offset': start})}"

    answer = {
        "items": [draw(item) for item in best[offset : offset + limit]],
        "total": len(best),
        "limit": limit,
        "offset": offset,
        "href": page(offset),
        "next": page(offset + limit) if offset + limit < len(best) else None,
        "previous": page(max(0, offset - limit)) if offset else None,
    }
    return answer, []


# The function for the body of each endpoint, and the plays in it.
ANSWERS: dict[
    str,
    Callable[[SimulatorState, Account, Mapping[str, str], str], tuple[Json, list[Item]]],
] = {
    "me": me,
    "recently_played": recently_played,
    "top_artists": partial(top, "artists"),
    "top_tracks": partial(top, "tracks"),
}


def _item(state: SimulatorState, account: Account, item: Item, now_ms: int) -> Json:
    names = account.feed.track(item.play.track, now_ms, relinked=item.relinked)
    track = state.shapes.track_as(item.play.track, names, account.shape)
    return play(track, item.stamp_ms, item.play.context)


def _integer(
    query: Mapping[str, str],
    name: str,
    default: int,
    least: int = 0,
    most: int = 2**63,
) -> int:
    try:
        number = int(query.get(name, default))
    except ValueError:
        number = -1
    if not least <= number <= most:
        raise Refusal.api(400, f"Invalid {name}")
    return number
