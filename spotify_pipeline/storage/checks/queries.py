"""Queries of the hourly rules, and the users (`Scope`) whom they look at.

Each query selects user_id and `since` (may be NULL) of violations.

Queries go from a user to their rows by `lateral` subqueries, which Postgres can only answer from
an index. A join would sometimes be planned as a scan of all plays.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import (
    ARRAY,
    Connection,
    Date,
    DateTime,
    Select,
    SelectBase,
    Table,
    TableValuedAlias,
    Text,
    and_,
    func,
    literal,
    not_,
    null,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.domain.due import CLOCKS_MAY_DIFFER, LONGEST_WAIT
from spotify_pipeline.domain.listening.coverage import local_day
from spotify_pipeline.domain.model import COUNTED_FROM_MS, TIME_RANGES
from spotify_pipeline.domain.personality.definition import METRICS, MIN_PLAYS, WINDOW_DAYS
from spotify_pipeline.domain.zones import check_zone, is_valid_zone
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.counters import plays_heard, previous_play
from spotify_pipeline.storage.users.queries import ELIGIBLE
from spotify_pipeline.storage.work.sync_requests import unserved

SLICE_USERS = 1_000


@dataclass(frozen=True, slots=True)
class Scope:
    """The users to look at, as of `now` (the facts clock), and the `zones` they live in."""

    now: datetime
    # Only queries about days and zones need them.
    zones: tuple[str, ...] = ()
    # A condition on users, and the same in words.
    who: ColumnElement[bool] = field(default_factory=true)
    words: str = "all users"


ScopeOf = Callable[[Connection, datetime], Scope]


def all_users(conn: Connection, now: datetime) -> Scope:
    """All users."""
    return Scope(now, _zones(conn))


def slice_of_the_hour(conn: Connection, now: datetime) -> Scope:
    """About 1,000 users."""
    users = select(func.count()).select_from(t.users)
    total = conn.execute(users).scalar_one()
    slices = -(-total // SLICE_USERS)
    if slices <= 1:
        return all_users(conn, now)
    # A hash, not an offset: new and deleted users do not move others between slices.
    number = func.hashtextextended(t.users.c.user_id, 0).op("&")(0x7FFF_FFFF)
    turn = number.op("%")(slices) == int(now.timestamp()) // 3600 % slices
    part = conn.execute(users.where(turn)).scalar_one()
    words = f"{part:,} of {total:,} users; every hour looks at others, {slices} hours look at all"
    return Scope(now, _zones(conn), turn, words)


def _zones(conn: Connection) -> tuple[str, ...]:
    return tuple(conn.scalars(select(t.users.c.timezone).distinct()))


DAYS = 35
# How long a user may be due, and a gap is new.
PATIENCE = timedelta(hours=1)
NEW_FOR = timedelta(days=7)
# A day may have this many minutes more than it is long.
TOLERANCE_MINUTES = 120

_TOP_LISTS = (t.user_top_artists, t.user_top_tracks)

Bad = Select[tuple[str, datetime | None]]
Query = Callable[[Scope], SelectBase]


def repeated_plays(scope: Scope) -> Bad:
    """Instants at which one recording is stored twice: under two ids after a relink."""
    p, other = t.plays, t.plays.alias("other")
    track, relinked = t.tracks.alias("track"), t.tracks.alias("relinked")
    twice = (
        select(p.c.played_at)
        .join_from(
            p,
            other,
            and_(
                other.c.user_id == p.c.user_id,
                other.c.played_at == p.c.played_at,
                other.c.track_id < p.c.track_id,
                other.c.source == p.c.source,
            ),
        )
        .join(track, track.c.spotify_id == p.c.track_id)
        .join(relinked, relinked.c.spotify_id == other.c.track_id)
        .where(
            p.c.user_id == t.users.c.user_id,
            p.c.played_at >= scope.now - timedelta(days=DAYS),
            p.c.source == "api",
            or_(
                track.c.isrc == relinked.c.isrc,
                and_(
                    track.c.name == relinked.c.name,
                    track.c.name != "",
                    p.c.artist_id == other.c.artist_id,
                ),
            ),
        )
    )
    return per_user(scope, twice, "played_at")


def missed_polls(scope: Scope) -> Bad:
    """Users with a working connection who have been due for more than an hour."""
    u, state, k = t.users, t.sync_state, t.user_tokens
    # A user who was never synced is due since they connected.
    since = func.coalesce(state.c.next_due_at, k.c.authorized_at)
    return (
        select(u.c.user_id, since.label("since"))
        .join_from(u, state, state.c.user_id == u.c.user_id)
        .join(k, k.c.user_id == u.c.user_id)
        .where(scope.who, u.c.connection.in_(ELIGIBLE), since < scope.now - PATIENCE)
    )


def future_instants(scope: Scope) -> Bad:
    """Users of whom an instant is stored that is further in the future than it can be."""
    u, state, c = t.users, t.sync_state, t.coverage
    latest = scope.now + CLOCKS_MAY_DIFFER
    covered = select(c.c.user_id).where(c.c.user_id == u.c.user_id, c.c.covered_to > latest)
    stamps = ("plays_fetched_at", "tops_fetched_at", "last_synced_at", "last_success_at")
    return (
        select(u.c.user_id, _never())
        .join_from(u, state, state.c.user_id == u.c.user_id)
        .where(
            scope.who,
            or_(
                *(state.c[stamp] > latest for stamp in stamps),
                state.c.next_due_at > scope.now + LONGEST_WAIT,
                covered.exists(),
            ),
        )
    )


def unserved_requests(scope: Scope) -> Bad:
    """Requests for which no run has begun, by the database's clock."""
    return unserved()


def waiting_uploads(scope: Scope) -> Bad:
    """Uploads that were closed more than an hour ago, by the database's clock."""
    i = t.history_imports
    return select(i.c.user_id, i.c.closed_at.label("since")).where(
        i.c.status == "closed", i.c.closed_at < func.now() - PATIENCE
    )


def still_named(scope: Scope) -> Bad:
    """Users who were forgotten more than an hour ago and whom Dagster may still name."""
    f = t.forgotten
    return select(f.c.user_id, f.c.forgotten_at.label("since")).where(
        f.c.user_id.is_not(None), f.c.forgotten_at < scope.now - PATIENCE
    )


def open_gaps(scope: Scope) -> Bad:
    """Gaps noticed in the last days and not closed."""
    u, g = t.users, t.listening_gaps
    return (
        select(u.c.user_id, g.c.gap_start.label("since"))
        .join_from(u, g, g.c.user_id == u.c.user_id)
        .where(scope.who, g.c.closed_at.is_(None), g.c.detected_at >= scope.now - NEW_FOR)
    )


def needing_reconnect(scope: Scope) -> Bad:
    """Users whom Spotify refuses for good."""
    u = t.users
    return select(u.c.user_id, _never()).where(scope.who, u.c.connection == "needs_reauth")


def suspect_connections(scope: Scope) -> Bad:
    """Users whom Spotify refused while it refused many others."""
    u = t.users
    return select(u.c.user_id, _never()).where(scope.who, u.c.connection == "suspect")


def wrong_sums(scope: Scope) -> Bad:
    """Days that are not what their stored plays add up to."""
    u, d, p = t.users, t.daily_listening, t.plays
    day = _local_days(scope)
    each = (
        plays_heard(
            p.c.user_id == u.c.user_id,
            p.c.played_at >= previous_play(u.c.user_id, day.c.since),
            p.c.played_at < day.c.until,
        )
        .correlate(u, day)
        .subquery("each")
    )
    is_counted = or_(each.c.source == "api", each.c.ms_played >= COUNTED_FROM_MS)
    heard = (
        select(
            func.count().label("rows"),
            func.count().filter(is_counted).label("plays"),
            func.coalesce(func.sum(each.c.listened_ms), 0).label("ms"),
        )
        .where(each.c.played_at >= day.c.since)
        .correlate(u, day)
        .lateral("heard")
    )
    same_day = (d.c.user_id == u.c.user_id) & (d.c.date == day.c.date)
    return (
        select(u.c.user_id, day.c.since)
        .join_from(u, day, day.c.zone == u.c.timezone)
        .outerjoin(d, same_day)
        .join(heard, true())
        .where(
            scope.who,
            not_(u.c.days_stale),
            or_(
                d.c.user_id.is_(None) != (heard.c.rows == 0),
                func.coalesce(d.c.plays, 0) != heard.c.plays,
                func.coalesce(d.c.listened_ms, 0) != heard.c.ms,
                d.c.minutes != (d.c.listened_ms + 30_000) // 60_000,
            ),
        )
    )


def crowded_days(scope: Scope) -> Bad:
    """Days with more minutes than fit into them, 23- and 25-hour days too."""
    u, d = t.users, t.daily_listening
    day = _local_days(scope)
    length = func.extract("epoch", day.c.until - day.c.since) / 60
    return (
        select(u.c.user_id, day.c.since)
        .join_from(u, day, day.c.zone == u.c.timezone)
        .join(d, (d.c.user_id == u.c.user_id) & (d.c.date == day.c.date))
        .where(scope.who, d.c.minutes > length + TOLERANCE_MINUTES)
    )


def contradictory_metrics(scope: Scope) -> Bad:
    """Personalities whose columns contradict each other."""
    m = t.music_personality
    unexplained = [
        and_(m.c[metric.column].is_(None), not_(m.c.reasons.has_key(metric.column)))
        for metric in METRICS
        # An artist of a streak is missing because the streak is; that says it already.
        if not metric.column.endswith("_id")
    ]
    return select(m.c.user_id, m.c.computed_at.label("since")).where(
        m.c.user_id.in_(select(t.users.c.user_id).where(scope.who)),
        or_(
            m.c.window_end - m.c.window_start != WINDOW_DAYS - 1,
            m.c.unique_artists > m.c.play_count,
            m.c.effective_artists > m.c.unique_artists + 1e-6,
            m.c.current_streak > m.c.longest_streak,
            *unexplained,
        ),
    )


def ranks_with_holes(scope: Scope) -> SelectBase:
    """Top lists whose ranks are not 1, 2, 3 …"""

    def holes(table: Table) -> Bad:
        lists = select(func.min(table.c.fetched_at).label("since"))
        lists = lists.where(table.c.user_id == t.users.c.user_id).group_by(table.c.time_range)
        wrong = (func.max(table.c.rank) != func.count()) | (func.min(table.c.rank) < 1)
        return per_user(scope, lists.having(wrong), "since")

    return union_all(*map(holes, _TOP_LISTS))


def empty_lists(scope: Scope) -> SelectBase:
    """Top lists that Spotify last sent without a line, of users who have listened."""

    def empty(table: Table, time_range: str) -> Bad:
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
                # All lists were answered then, and this one moved its fetched_at if it had lines.
                last.c.sent_at.is_(None) | (last.c.sent_at < state.c.tops_fetched_at),
                state.c.tops_fetched_at.is_not(None),
            )
        )

    return union_all(*(empty(table, range_) for table in _TOP_LISTS for range_ in TIME_RANGES))


def per_user(scope: Scope, rows: Select[tuple[datetime]], since: str) -> Bad:
    """The users of the scope, once for each of these rows; they say whose by users.user_id."""
    found = rows.lateral("found")
    u = t.users
    return (
        select(u.c.user_id, found.c[since].label("since"))
        .join_from(u, found, true())
        .where(scope.who)
    )


def _local_days(scope: Scope) -> TableValuedAlias:
    """The last dates of every zone in question: zone, date, since, until (half-open, UTC).

    An unknown zone has none: the rule zones_are_known counts its users.
    """
    # In UTC+14 it is already tomorrow; a date without plays breaks no rule.
    last = (scope.now + timedelta(hours=14)).date()
    dates = [last - timedelta(days=back) for back in range(DAYS)]
    days = [
        (zone, date_, span.start, span.end)
        for zone in filter(is_valid_zone, scope.zones)
        for date_ in dates
        for span in [local_day(date_, check_zone(zone))]
    ]
    instants = ARRAY(DateTime(timezone=True))
    return (
        func.unnest(
            literal([zone for zone, _, _, _ in days], ARRAY(Text)),
            literal([date_ for _, date_, _, _ in days], ARRAY(Date)),
            literal([start for _, _, start, _ in days], instants),
            literal([end for _, _, _, end in days], instants),
        )
        .table_valued("zone", "date", "since", "until", name="day")
        .render_derived()
    )


def _never() -> ColumnElement[datetime | None]:
    return func.cast(null(), DateTime(timezone=True)).label("since")
