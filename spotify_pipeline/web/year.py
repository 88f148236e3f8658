"""The year in numbers and pictures, from stored plays."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from spotify_pipeline import app
from spotify_pipeline.domain.portrait import Day
from spotify_pipeline.portrait.drawings import calendar, hatching, in_words, legend
from spotify_pipeline.portrait.year import YearCard, picture
from spotify_pipeline.web.days import read_days, summed
from spotify_pipeline.web.forms import signed_in, to
from spotify_pipeline.web.sessions import Session
from spotify_pipeline.web.site import site_of
from spotify_pipeline.web.views import PRIVATE, drawn, not_found, private_page

TOP = 10
LONGEST_HISTORY = 3660


@signed_in
def this_year(request: Request, session: Session) -> Response:
    """The year that it is in the user's zone."""
    return to(f"/year/{_today(session).year}")


@signed_in
def year(request: Request, session: Session) -> Response:
    """The page."""
    content = _content(request, session)
    return private_page("year.html", session, **content) if content else not_found()


@signed_in
def year_picture(request: Request, session: Session) -> Response:
    """A picture to share."""
    content = _content(request, session)
    if content is None:
        return not_found()
    card = YearCard(
        title=f"{session.name}, {content['year']}",
        minutes=content["sum"].minutes,
        is_least=content["sum"].is_least,
        active_days=content["sum"].active,
        artists=[line.name for line in content["artists"][:5]],
        tracks=[line.name for line in content["tracks"][:5]],
        days=content["shown_days"],
    )
    headers = {
        **PRIVATE,
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    }
    return Response(picture(card), media_type="image/svg+xml", headers=headers)


def _today(session: Session) -> date:
    return datetime.now(UTC).astimezone(ZoneInfo(session.settings.timezone)).date()


def _content(request: Request, session: Session) -> dict[str, Any] | None:
    """What the template shows; None: a year of which nothing can be stored."""
    number, today = request.path_params["year"], _today(session)
    first = date(number, 1, 1) if 2000 <= number <= today.year else None
    if first is None or (today - first).days >= LONGEST_HISTORY:
        return None
    last = min(date(number, 12, 31), today)
    with site_of(request).engine.connect() as conn:
        history = read_days(conn, session.user_id, (today - first).days + 1)
        days = [day for day in history if day.date <= last]
        span = (session.user_id, first, last, TOP)
        artists = app.listening_top(conn, span[0], "artists", *span[1:])
        tracks = app.listening_top(conn, span[0], "tracks", *span[1:])
        discoveries = app.listening_discoveries(conn, *span)
    heard = [day for day in days if day.minutes]
    return {
        "year": number,
        "this_year": today.year,
        "sum": summed(days),
        "plays": sum(day.plays or 0 for day in days),
        "artists": artists,
        "tracks": tracks,
        "discoveries": discoveries,
        "biggest": in_words(max(heard, key=lambda day: day.minutes or 0)) if heard else None,
        "calendar": drawn(calendar(days)),
        "legend": drawn(legend()),
        "hatching": drawn(hatching()),
        "months": _months(days),
        "shown_days": days,
    }


def _months(days: Sequence[Day]) -> list[tuple[str, Any]]:
    """(month, sum of its days), the table behind the calendar."""
    months: dict[str, list[Day]] = {}
    for day in days:
        months.setdefault(f"{day.date:%B}", []).append(day)
    return [(name, summed(of_month)) for name, of_month in months.items()]


ROUTES = [
    Route("/year", this_year),
    Route("/year/{year:int}", year),
    Route("/year/{year:int}/picture.svg", year_picture),
]
