"""Days of the contract as the portrait draws them, and their sums."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from spotify_pipeline import app
from spotify_pipeline.domain.portrait import Day
from spotify_pipeline.portrait.meanings import INCOMPLETE


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
