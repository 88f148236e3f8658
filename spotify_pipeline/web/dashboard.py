"""The start page: what this is, or the signed-in user's week and the Sync button with its texts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from math import ceil, sin
from zoneinfo import ZoneInfo

from markupsafe import Markup
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from spotify_pipeline import app
from spotify_pipeline.app import SyncStatus
from spotify_pipeline.domain.portrait import Day
from spotify_pipeline.portrait.drawings import calendar, hatching, in_words, week
from spotify_pipeline.portrait.meanings import INCOMPLETE
from spotify_pipeline.terminal import count
from spotify_pipeline.web.forms import Sent, form, signed_in, to
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


TOASTS = {
    "RECONNECT": "Spotify no longer lets us in. Reconnect Spotify with the same account as before.",
    "NOT_ALLOWLISTED": "Your Spotify account is not enabled for this app yet. The operator knows.",
    "MISSING_SCOPE": ("A permission is missing. Reconnect Spotify and accept both permissions."),
    "APP_BLOCKED": "Spotify does not let our app in at the moment. We are on it.",
    "CLIENT_MISMATCH": (
        "Your connection belongs to an earlier version of this app. Reconnect Spotify."
    ),
    "RATE_LIMITED": "Spotify asked us to slow down. Try again later.",
    "QUOTA_EXCEEDED": "We have asked Spotify as often as we may today. Try again later.",
    "SPOTIFY_UNAVAILABLE": "Spotify did not answer. Try again in a few minutes.",
    "BAD_RESPONSE": "Spotify answered something strange. Try again in a few minutes.",
    "CRASHED": "The sync was interrupted. Try again.",
    "CANCELLED": "The sync was cancelled.",
    "FORGOTTEN": "This account was deleted.",
    "INTERNAL": "Something failed on our side. Try again in a few minutes.",
}
SYNCED = "Synced. Your numbers are up to date."


@dataclass(frozen=True, slots=True)
class Button:
    """The Sync button. `seconds`: until it works again; `kind`: success, error or "" (no toast)."""

    state: str
    label: str
    is_enabled: bool
    needs_reconnect: bool
    seconds: int
    kind: str
    toast: str


def button(status: SyncStatus, asked: int | None) -> Button:
    """The button for a state; `asked` is the request whose end the user waits for."""
    seconds = _seconds_until(status.next_allowed_at)
    needs_reconnect = status.connection in ("disconnected", "needs_reauth")
    label, kind, toast = "Sync now", "", ""
    if status.state in ("queued", "running"):
        label = "Syncing…"
    elif status.state == "blocked":
        label = "Waiting for Spotify…"
        toast = "Your sync is queued: no call to Spotify may be made for a while."
    elif needs_reconnect:
        label = "Reconnect Spotify"
    elif seconds:
        label = f"Sync again in {count(ceil(seconds / 60), 'minute')}"
    if status.state == "failed" and status.error_code:
        kind, toast = "error", TOASTS.get(status.error_code, TOASTS["INTERNAL"])
    # Not by the state, which is idle too where a later sync succeeded after a failed request.
    elif asked is not None and (asked, "succeeded") == (status.request_id, status.request_status):
        kind, toast = "success", SYNCED
    is_enabled = not (seconds or needs_reconnect) and status.state in ("never", "idle", "failed")
    return Button(status.state, label, is_enabled, needs_reconnect, seconds, kind, toast)


def _seconds_until(instant: datetime | None) -> int:
    if instant is None:
        return 0
    return max(0, ceil((instant - datetime.now(UTC)).total_seconds()))


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
