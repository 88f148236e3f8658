"""What breaks the rules of top lists."""

from sqlalchemy import Table, func, select, true

from spotify_pipeline.domain import steps as s
from spotify_pipeline.domain.personality.definition import MIN_PLAYS
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.checks.queries import Bad, Query, per_user
from spotify_pipeline.storage.checks.scopes import Scope
from spotify_pipeline.storage.users.queries import ELIGIBLE

LISTS: dict[str, tuple[Table, str]] = {
    **{step: (t.user_top_artists, time_range) for step, time_range in s.TOP_ARTISTS.items()},
    **{step: (t.user_top_tracks, time_range) for step, time_range in s.TOP_TRACKS.items()},
}


def ranks_with_holes(step: str) -> Query:
    """Lists whose ranks are not 1, 2, 3 …"""
    table, time_range = LISTS[step]

    def query(scope: Scope) -> Bad:
        holes = select(func.min(table.c.fetched_at).label("since")).where(
            table.c.user_id == t.users.c.user_id, table.c.time_range == time_range
        )
        holes = holes.having(
            (func.max(table.c.rank) != func.count()) | (func.min(table.c.rank) < 1)
        )
        return per_user(scope, holes, "since")

    return query


def empty_lists(step: str) -> Query:
    """Lists that Spotify last sent without a line, of users who have listened."""
    table, time_range = LISTS[step]

    def query(scope: Scope) -> Bad:
        u, state, m = t.users, t.sync_state, t.music_personality
        last = (
            select(func.max(table.c.fetched_at).label("sent_at"))
            .where(table.c.user_id == u.c.user_id, table.c.time_range == time_range)
            .lateral("last")
        )
        return (
            select(u.c.user_id, func.coalesce(last.c.sent_at, u.c.created_at).label("since"))
            .join_from(u, state, state.c.user_id == u.c.user_id)
            .join(m, m.c.user_id == u.c.user_id)
            .join(last, true())
            .where(
                scope.who,
                u.c.connection.in_(ELIGIBLE),
                m.c.play_count >= MIN_PLAYS,
                state.c.tops_fetched_at.is_not(None),
                # All lists were answered then, and this one moved its fetched_at if it had lines.
                last.c.sent_at.is_(None) | (last.c.sent_at < state.c.tops_fetched_at),
            )
        )

    return query
