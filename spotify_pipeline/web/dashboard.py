"""The start page: what this is, or the signed-in user's week and the Sync button."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from math import sin
from zoneinfo import ZoneInfo

from markupsafe import Markup
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from spotify_pipeline import app
from spotify_pipeline.domain.portrait import Day
from spotify_pipeline.portrait.drawings import calendar, hatching, in_words, week
from spotify_pipeline.portrait.meanings import INCOMPLETE
from spotify_pipeline.web.forms import Button, Sent, button, form, signed_in, to
from spotify_pipeline.web.sessions import Session
from spotify_pipeline.web.site import PRIVATE, drawn, private_page, site_of, wants_json


@dataclass(frozen=True, slots=True)
class Sum:
    """Minutes of several days. `known` days have a number; None: no day is known.

    `is_least`: there may be more, because a day is not known completely.
    """

    minutes: int | None
    known: int
    active: int
    total: int
    is_least: bool


@dataclass(frozen=True, slots=True)
class Streaks:
    """Runs of days with listening. A day that is not known ends a run: so both are "at least"."""

    current: int
    longest: int


def read_days(conn: Connection, user_id: str, days: int) -> tuple[Day, ...]:
    """The last days of the user as the portrait draws them, with why they are not complete."""
    reasons = app.incomplete_days(conn, user_id, days)
    return tuple(
        Day(
            row.date,
            row.minutes,
            row.plays,
            row.completeness,
            INCOMPLETE.get(reasons.get(row.date, "")),
        )
        for row in app.listening_history(conn, user_id, days)
    )


def summed(days: Sequence[Day]) -> Sum:
    """The sum of what is known."""
    known = [day.minutes for day in days if day.minutes is not None]
    return Sum(
        minutes=sum(known) if known else None,
        known=len(known),
        active=sum(minutes > 0 for minutes in known),
        total=len(days),
        is_least=any(day.completeness != "complete" for day in days),
    )


def streaks(days: Sequence[Day]) -> Streaks:
    """Runs of days with listening; the current one may still get today."""
    longest = run = before = 0
    for day in days:
        before, run = run, run + 1 if day.minutes else 0
        longest = max(longest, run)
    return Streaks(current=run or before, longest=longest)


RECENT = 8


def home(request: Request) -> Response:
    """The signed-in user's page, or that of visitors."""
    site = site_of(request)
    with site.engine.connect() as conn:
        session = site.cookies.session(request, conn)
        if session is None:
            return private_page(
                "home.html",
                None,
                hatching=drawn(hatching()),
                example=_example(datetime.now(UTC).date()),
            )
        return _dashboard(request, session, conn)


@lru_cache(maxsize=1)
def _example(today: date) -> Markup:
    """The calendar of an invented year, for visitors; drawn once a day."""
    days = []
    for ago in reversed(range(365)):
        known = ago < 310
        minutes = max(0, round(62 + 45 * sin(ago / 17) + 40 * sin(ago * 2.4))) if known else None
        rated = "complete" if known and ago else "at_least" if known else "unknown"
        days.append(Day(today - timedelta(days=ago), minutes, None, rated))
    return drawn(calendar(days))


def _dashboard(request: Request, session: Session, conn: Connection) -> Response:
    user_id, zone = session.user_id, session.settings.timezone
    status = app.sync_status(conn, user_id)
    history = read_days(conn, user_id, 7)
    span = history[0].date, history[-1].date
    artists = app.listening_top(conn, user_id, "artists", *span, 5)
    tracks = app.listening_top(conn, user_id, "tracks", *span, 5)
    local = ZoneInfo(zone)
    recent = [
        (play, play.played_at.astimezone(local)) for play in app.recent_plays(conn, user_id, RECENT)
    ]
    reconnect_by = status.reconnect_by if status.connection == "expiring" else None
    return private_page(
        "dashboard.html",
        session,
        sync=status,
        button=button(status, asked(request)),
        sum=summed(history),
        week=drawn(week(history)),
        hatching=drawn(hatching()),
        days=[(day, in_words(day)) for day in history],
        today=summed(history[-1:]),
        artists=artists,
        tracks=tracks,
        recent=recent,
        reconnect_by=reconnect_by and reconnect_by.astimezone(local).date(),
        now=datetime.now(UTC).astimezone(local),
    )


@form
def sync(request: Request, session: Session, sent: Sent) -> Response:
    """Request a sync; while one is open or the cooldown runs, that one's state is shown."""
    request_id, refusal = None, ""
    try:
        with site_of(request).engine.begin() as conn:
            request_id = app.request_sync(conn, session.user_id).request_id
    except app.Refused as refused:
        # As after a press in another tab. Without our script the start page's button says it.
        refusal = refused.message
    if wants_json(request):
        shown = _button(request, session, request_id)
        if refusal:
            shown = replace(shown, kind="error", toast=refusal)
        return JSONResponse({"request": request_id, **asdict(shown)}, headers=PRIVATE)
    return to("/" if request_id is None else f"/?sync={request_id}")


@signed_in
def status(request: Request, session: Session) -> Response:
    """The button's state, for our script."""
    return JSONResponse(asdict(_button(request, session, asked(request))), headers=PRIVATE)


def _button(request: Request, session: Session, request_id: int | None) -> Button:
    with site_of(request).engine.connect() as conn:
        return button(app.sync_status(conn, session.user_id), request_id)


def asked(request: Request) -> int | None:
    """The request whose end is to be shown."""
    number = request.query_params.get("sync", "")
    return int(number) if number.isascii() and number.isdigit() and len(number) < 19 else None
