"""Rows that belong to nobody, and rows that name what the catalogue does not have.

Foreign keys and the order of writing forbid both; a restored dump or a hand in the database does
not ask them.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import Column, DateTime, Table, cast, exists, func, not_, null, or_, select, true
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.domain import steps as s
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.checks.lists import LISTS
from spotify_pipeline.storage.checks.queries import DAYS, Bad, Query
from spotify_pipeline.storage.checks.scopes import Scope

# What a row names, and where that has to stand.
_NAMES: dict[str, list[tuple[Column[Any], Table]]] = {
    s.RECENTLY_PLAYED: [(t.plays.c.track_id, t.tracks), (t.plays.c.artist_id, t.artists)],
    s.DAILY_LISTENING: [
        (t.daily_listening.c.top_track_id, t.tracks),
        (t.daily_listening.c.top_artist_id, t.artists),
    ],
    s.MUSIC_PERSONALITY: [
        (t.music_personality.c.longest_streak_artist_id, t.artists),
        (t.music_personality.c.streak_artist_id, t.artists),
    ],
    **{step: [(t.user_top_artists.c.spotify_id, t.artists)] for step in s.TOP_ARTISTS},
    **{step: [(t.user_top_tracks.c.spotify_id, t.tracks)] for step in s.TOP_TRACKS},
}


def orphans(step: str) -> tuple[Query, ...]:
    """The queries for rows of either kind in the table of the step."""
    # Lists of three time ranges share a table: whoever has one is looked up once, not three times.
    if step in LISTS and LISTS[step][1] != "short_term":
        return (_without_catalogue(step),)
    return _without_user(step), _without_catalogue(step)


def _without_user(step: str) -> Query:
    """User ids that stand in the table of the step and no more in users."""
    owner = _NAMES[step][0][0].table.c.user_id

    def query(scope: Scope) -> Bad:
        # One probe of the index per user: DISTINCT would read every play.
        found = select(func.min(owner).label("user_id")).cte("found", recursive=True)
        after = select(func.min(owner)).where(owner > found.c.user_id).scalar_subquery()
        found = found.union_all(select(after).where(found.c.user_id.is_not(None)))
        known = exists().where(t.users.c.user_id == found.c.user_id)
        return select(found.c.user_id, _no_instant()).where(
            found.c.user_id.is_not(None), not_(known)
        )

    return query


def _without_catalogue(step: str) -> Query:
    """Rows of the users that name a track or artist which is not there."""
    named = _NAMES[step]
    table = named[0][0].table

    def query(scope: Scope) -> Bad:
        u = t.users
        lost = [
            id_.is_not(None) & not_(exists().where(catalogue.c.spotify_id == id_))
            for id_, catalogue in named
        ]
        rows = (
            select(_no_instant())
            .where(table.c.user_id == u.c.user_id, _looked_at(step, scope), or_(*lost))
            .lateral("rows")
        )
        return select(u.c.user_id, rows.c.since).join_from(u, rows, true()).where(scope.who)

    return query


def _looked_at(step: str, scope: Scope) -> ColumnElement[bool]:
    """Which of a user's rows: the list of the step, or the last days."""
    since = scope.now - timedelta(days=DAYS)
    if step in LISTS:
        table, time_range = LISTS[step]
        return table.c.time_range == time_range
    if step == s.RECENTLY_PLAYED:
        return t.plays.c.played_at >= since
    return t.daily_listening.c.date >= since.date() if step == s.DAILY_LISTENING else true()


def _no_instant() -> ColumnElement[Any]:
    return cast(null(), DateTime(timezone=True)).label("since")
