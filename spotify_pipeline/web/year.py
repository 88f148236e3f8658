"""The year in numbers and pictures, from stored plays."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from spotify_pipeline import app
from spotify_pipeline.domain.portrait import Day
from spotify_pipeline.portrait.drawings import calendar, hatching, in_words, legend
from spotify_pipeline.portrait.year import YearCard, picture
from spotify_pipeline.web.dashboard import read_days, summed
from spotify_pipeline.web.forms import signed_in, to
from spotify_pipeline.web.sessions import Session
from spotify_pipeline.web.site import PRIVATE, drawn, private_page, site_of

TOP = 10
LONGEST_HISTORY = 10_000


@dataclass(frozen=True, slots=True)
class Year:
    """The local days of a year until today, with its most played artists and tracks.

    `years`: all years that have a page, from that of the user's first play to this one.
    """

    years: range
    first: date
    last: date
    days: Sequence[Day]
    artists: Sequence[app.Ranked]
    tracks: Sequence[app.Ranked]


@signed_in
def this_year(request: Request, session: Session) -> Response:
    """The year that it is in the user's zone."""
    return to(f"/year/{_today(session).year}")


@signed_in
def year(request: Request, session: Session) -> Response:
    """The page."""
    of = _read(request, session)
    with site_of(request).engine.connect() as conn:
        discoveries = app.listening_discoveries(conn, session.user_id, of.first, of.last, TOP)
    heard = [day for day in of.days if day.minutes]
    return private_page(
        "year.html",
        session,
        year=of.first.year,
        years=of.years,
        sum=summed(of.days),
        plays=sum(day.plays or 0 for day in of.days),
        artists=of.artists,
        tracks=of.tracks,
        discoveries=discoveries,
        biggest=in_words(max(heard, key=lambda day: day.minutes or 0)) if heard else None,
        calendar=drawn(calendar(of.days)),
        legend=drawn(legend()),
        hatching=drawn(hatching()),
        months=_months(of.days),
    )


@signed_in
def year_picture(request: Request, session: Session) -> Response:
    """A picture to share."""
    of = _read(request, session)
    total = summed(of.days)
    card = YearCard(
        title=f"{session.name}, {of.first.year}",
        minutes=total.minutes,
        is_least=total.is_least,
        active_days=total.active,
        artists=[line.name for line in of.artists[:5]],
        tracks=[line.name for line in of.tracks[:5]],
        days=of.days,
    )
    headers = {
        **PRIVATE,
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    }
    return Response(picture(card), media_type="image/svg+xml", headers=headers)


def _today(session: Session) -> date:
    return datetime.now(UTC).astimezone(ZoneInfo(session.settings.timezone)).date()


def _read(request: Request, session: Session) -> Year:
    """Raises HTTPException, 404, for a year before the user's first play, or to come."""
    number, today, user_id = request.path_params["year"], _today(session), session.user_id
    with site_of(request).engine.connect() as conn:
        oldest = today - timedelta(days=LONGEST_HISTORY - 366)
        earliest = max(app.first_day(conn, user_id) or today, oldest)
        years = range(min(earliest, today).year, today.year + 1)
        if number not in years:
            raise HTTPException(404)
        first, last = date(number, 1, 1), min(date(number, 12, 31), today)
        days = read_days(conn, user_id, (today - first).days + 1)
        return Year(
            years,
            first,
            last,
            [day for day in days if day.date <= last],
            app.listening_top(conn, user_id, "artists", first, last, TOP),
            app.listening_top(conn, user_id, "tracks", first, last, TOP),
        )


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
