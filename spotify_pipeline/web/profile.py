"""The profile: public under its name, cached; by a share link; and the user's own."""

import hashlib
import hmac
import json
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from markupsafe import Markup
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from spotify_pipeline import app
from spotify_pipeline.domain.portrait import (
    Point,
    TopItem,
    TopList,
    by_weekday,
    minutes_by_hour,
    movement,
)
from spotify_pipeline.portrait.drawings import (
    calendar,
    clock,
    hatching,
    in_words,
    legend,
    trend,
    weekday_in_words,
    weekdays,
)
from spotify_pipeline.portrait.meanings import INCOMPLETE, MEANINGS, OVER_TIME, meanings, shown
from spotify_pipeline.web.cache import MAX_AGE_SECONDS, CachedPage
from spotify_pipeline.web.dashboard import read_days, streaks, summed
from spotify_pipeline.web.forms import signed_in
from spotify_pipeline.web.sessions import Session, shown_name
from spotify_pipeline.web.site import PRIVATE, Site, drawn, private_page, render, site_of

SHOWN = 20
DAYS = 365
COMPARED_DAYS = 28
# A top list that is older was not refreshed for a week: the page says so.
LIST_TTL = timedelta(days=7)
RANGES = {
    "short_term": "4 weeks",
    "medium_term": "6 months",
    "long_term": "year",
}
# Seconds by which the clocks of the pipeline and of this process may differ.
HOOK_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Lists:
    """The top artists and tracks of a time range, each line with its movement in four weeks."""

    time_range: str
    name: str
    artists: list[tuple[int, TopItem, str]]
    tracks: list[tuple[int, TopItem, str]]
    fetched_at: datetime | None
    is_old: bool


async def public(request: Request) -> Response:
    """The profile of a name, from the cache for at most an hour.

    Answers the same for a private name and for one that does not exist.
    """
    site, name = site_of(request), request.path_params["name"].lower()
    page = site.cache.get(name)
    if page is None or not site.cache.is_fresh(page):
        page = await run_in_threadpool(_current, site, name, page)
    if page is None:
        raise HTTPException(404)
    left = max(0, int(MAX_AGE_SECONDS - site.cache.age(page)))
    headers = {"Cache-Control": f"public, max-age={left}", "ETag": page.etag}
    if page.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return HTMLResponse(page.body, headers=headers)


def _current(site: Site, name: str, cached: CachedPage | None) -> CachedPage | None:
    """The page as the database has it now; None: no visitor may see it."""
    with site.engine.connect() as conn:
        found = app.find_profile(conn, name)
        if found is None:
            site.cache.drop(name)
            return None
        if cached is not None and cached.version == found.version:
            return site.cache.confirm(name, cached)
        body = _rendered(conn, found).encode()
    return site.cache.put(name, found.user_id, found.version, body)


def shared(request: Request) -> Response:
    """The profile of a share link: of the address and nothing else, and kept by no cache."""
    digest = hashlib.sha256(request.path_params["token"].encode()).digest()
    with site_of(request).engine.connect() as conn:
        found = app.find_profile(conn, None, digest)
        if found is None:
            raise HTTPException(404)
        return HTMLResponse(_rendered(conn, found), headers=PRIVATE)


@signed_in
def mine(request: Request, session: Session) -> Response:
    """The signed-in user's own profile, public or not."""
    settings = session.settings
    profile = app.Profile(session.user_id, settings.display_name, settings.timezone, "")
    with site_of(request).engine.connect() as conn:
        return private_page("profile.html", session, **_content(conn, profile))


async def revalidate(request: Request) -> Response:
    """The pipeline's cache hook: drops what is cached of the users that it names."""
    site, body = site_of(request), await request.body()
    if not site.config.hook_secret or not is_genuine(
        site.config.hook_secret, request.headers, body
    ):
        raise HTTPException(403, "The signature is wrong or too old.")
    try:
        user_ids = json.loads(body)["user_ids"]
        site.cache.drop_users([str(user_id) for user_id in user_ids])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise HTTPException(400, "The body is not the one of the cache hook.") from None
    return PlainTextResponse("dropped\n")


def is_genuine(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether the pipeline sent this within five minutes; another copy of it only drops again."""
    timestamp = headers.get("x-spotify-pipeline-timestamp", "")
    signed = headers.get("x-spotify-pipeline-signature", "")
    mac = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    if not hmac.compare_digest(signed.encode(), b"sha256=" + mac.hexdigest().encode()):
        return False
    is_instant = re.fullmatch("[0-9]{1,12}", timestamp) is not None
    return is_instant and abs(time.time() - int(timestamp)) < HOOK_SECONDS


def _rendered(conn: Connection, profile: app.Profile) -> str:
    """As visitors see it."""
    return render("profile.html", session=None, **_content(conn, profile))


def _content(conn: Connection, profile: app.Profile) -> dict[str, Any]:
    """What the template shows."""
    user_id, zone = profile.user_id, ZoneInfo(profile.timezone)
    days = read_days(conn, user_id, DAYS)
    hours = minutes_by_hour(app.listening_quarters(conn, user_id, COMPARED_DAYS), zone)
    before = sum(day.why == INCOMPLETE["before"] for day in days)
    means, lists = by_weekday(days), _lists(conn, user_id)
    personality = app.music_personality(conn, user_id)
    months = _months(app.personality_months(conn, user_id), personality)
    kinds = Counter(day.completeness for day in days)
    return {
        "name": shown_name(profile.display_name, profile.user_id),
        "zone": profile.timezone,
        "now": datetime.now(UTC).astimezone(zone),
        "hatching": drawn(hatching()),
        "sum": summed(days),
        "streaks": streaks(days),
        "calendar": drawn(calendar(days)),
        "legend": drawn(legend()),
        "days": [(day, in_words(day)) for day in reversed(days[before:])],
        "before": before,
        "hours": hours,
        "clock": drawn(clock(hours)) if hours else None,
        "weekdays": drawn(weekdays(means)),
        "weekday_rows": [(mean, weekday_in_words(mean)) for mean in means],
        "lists": lists,
        "is_compared": any(moved for of in lists for _, _, moved in (*of.artists, *of.tracks)),
        "personality": personality,
        "metrics": _metrics(conn, personality) if personality else [],
        "months": [month.label for month in months],
        "trends": _trends(months),
        "kinds": kinds,
        "gaps": [
            (start.astimezone(zone), end.astimezone(zone))
            for start, end in app.open_gaps(conn, user_id)
        ],
    }


def _lists(conn: Connection, user_id: str) -> list[Lists]:
    before = app.top_ranks(conn, user_id, COMPARED_DAYS)
    shown = []
    for time_range, name in RANGES.items():
        artists = app.top_artists(conn, user_id, time_range)[:SHOWN]
        tracks = app.top_tracks(conn, user_id, time_range)[:SHOWN]
        fetched = [*(line.fetched_at for line in artists), *(line.fetched_at for line in tracks)]
        oldest = min(fetched, default=None)
        shown.append(
            Lists(
                time_range,
                name,
                _lines(
                    [TopItem(line.spotify_id, line.name) for line in artists],
                    before.get(("artists", time_range)),
                ),
                _lines(
                    [TopItem(line.spotify_id, line.name, line.artist_name) for line in tracks],
                    before.get(("tracks", time_range)),
                ),
                oldest,
                oldest is not None and datetime.now(UTC) - oldest > LIST_TTL,
            )
        )
    return shown


def _lines(items: list[TopItem], before: dict[str, int] | None) -> list[tuple[int, TopItem, str]]:
    top = TopList(tuple(items), before)
    return [(rank, item, movement(top.moved(rank))) for rank, item in enumerate(items, 1)]


@dataclass(frozen=True, slots=True)
class Month:
    """The metrics of a month, or of the last 28 days."""

    label: str
    metrics: Mapping[str, Any]
    reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Trend:
    """A metric over time: its chart, and the value of each month for the table behind it."""

    name: str
    chart: Markup
    points: list[Point]


def _months(past: list[app.PersonalityMonth], now: app.Personality | None) -> list[Month]:
    """The months that are over, and the last 28 days."""
    months = [Month(f"{month.month:%b %Y}", month.metrics, month.reasons) for month in past]
    return [*months, Month("now", now.metrics, now.reasons)] if now else months


def _trends(months: list[Month]) -> list[Trend]:
    """None before the first month is over: a chart of one column shows nothing."""
    if len(months) < 2:
        return []
    trends = []
    for metric in OVER_TIME:
        points = [_point(month, metric) for month in months]
        trends.append(Trend(MEANINGS[metric][0], drawn(trend(points)), points))
    return trends


def _point(month: Month, metric: str) -> Point:
    value = month.metrics.get(metric)
    if value is None:
        why = month.reasons.get(metric)
        words = f"{month.label}: not known{f', {why}' if why else ''}"
        return Point(month.label, None, "?", words)
    text = shown(metric, value)
    return Point(month.label, value, text, f"{month.label}: {text}")


def _metrics(conn: Connection, personality: app.Personality) -> list[Any]:
    """Every metric with its value and a sentence, or the reason why it is missing."""
    row = {**asdict(personality), **personality.metrics}
    ids = {row.get(name) for name in ("longest_streak_artist_id", "streak_artist_id")}
    names = app.artist_names(conn, [str(id_) for id_ in ids if id_])
    return list(meanings(row, names))
