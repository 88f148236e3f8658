"""Finds violations of the database's own constraints, from the table definitions.

Constraints and triggers forbid all of it, but a restore with them switched off does not ask them.
These queries read whole tables: `spotify-pipeline doctor --deep` asks them, the hourly checks do
not. A row that has no user counts as a row of no user.
"""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    ColumnElement,
    DateTime,
    PrimaryKeyConstraint,
    Select,
    SelectBase,
    Table,
    Text,
    UniqueConstraint,
    cast,
    exists,
    func,
    not_,
    null,
    or_,
    select,
    text,
    true,
    union_all,
)

from spotify_pipeline.domain.zones import is_valid_zone
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.checks.queries import Scope

_TABLES = t.metadata.sorted_tables
# Ids without a foreign key, so that writers need not lock the catalogue.
_CATALOGUE_IDS: tuple[tuple[Column[Any], Table], ...] = (
    (t.plays.c.artist_id, t.artists),
    (t.imported_plays.c.track_id, t.tracks),
    (t.imported_tracks.c.artist_id, t.artists),
    (t.daily_listening.c.top_track_id, t.tracks),
    (t.daily_listening.c.top_artist_id, t.artists),
    (t.music_personality.c.longest_streak_artist_id, t.artists),
    (t.music_personality.c.streak_artist_id, t.artists),
    (t.user_top_artists.c.spotify_id, t.artists),
    (t.user_top_tracks.c.spotify_id, t.tracks),
)


def orphans(scope: Scope) -> SelectBase:
    """Rows that name a user, track, artist, play or zone that is not stored."""
    pairs = [
        [(element.parent, element.column) for element in key.elements]
        for table in _TABLES
        for key in table.foreign_key_constraints
    ]
    pairs += [[(column, catalogue.c.spotify_id)] for column, catalogue in _CATALOGUE_IDS]
    return union_all(*(_unmatched(columns) for columns in pairs))


def _unmatched(pairs: list[tuple[Column[Any], Column[Any]]]) -> Select[Any]:
    table = pairs[0][0].table
    found = exists().where(*(column == other for column, other in pairs)).correlate(table)
    return _rows(table).where(*(column.is_not(None) for column, _ in pairs), not_(found))


def values_out_of_range(scope: Scope) -> SelectBase:
    """Rows that break a CHECK of their table. One that is NULL holds: its negation is NULL too."""
    checks = {
        table: [
            text(f"NOT ({rule.sqltext})")
            for rule in table.constraints
            if isinstance(rule, CheckConstraint)
        ]
        for table in _TABLES
    }
    return union_all(
        *(_rows(table).where(or_(*broken)) for table, broken in checks.items() if broken)
    )


def repeated_keys(scope: Scope) -> SelectBase:
    """Keys of a primary key, unique constraint or unique index that more than one row has."""
    return union_all(
        *(
            _rows(table, func.min)
            .where(*(column.is_not(None) for column in columns), condition)
            .group_by(*columns)
            .having(func.count() > 1)
            for table in _TABLES
            for columns, condition in _unique(table)
        )
    )


def _unique(table: Table) -> Iterator[tuple[list[Any], ColumnElement[bool]]]:
    for constraint in table.constraints:
        if isinstance(constraint, PrimaryKeyConstraint | UniqueConstraint):
            yield list(constraint.columns), true()
    for index in table.indexes:
        if index.unique:
            condition = index.dialect_options["postgresql"]["where"]
            yield list(index.columns), true() if condition is None else condition


def wrong_counters(scope: Scope) -> SelectBase:
    """Users whose kept numbers of plays and days are not those of their rows, or not there."""
    u, counters = t.users, t.listening_tallies

    def stored(table: Table) -> Any:
        rows = select(func.count()).where(table.c.user_id == u.c.user_id)
        return rows.correlate(u).scalar_subquery()

    return (
        _rows(u)
        .outerjoin_from(u, counters, counters.c.user_id == u.c.user_id)
        .where(
            or_(
                counters.c.plays.is_distinct_from(stored(t.plays)),
                counters.c.days.is_distinct_from(stored(t.daily_listening)),
            )
        )
    )


def unknown_zones(scope: Scope) -> SelectBase:
    """Users in a zone that the tzdata package does not have, or has no more."""
    lost = [zone for zone in scope.zones if not is_valid_zone(zone)]
    return _rows(t.users).where(t.users.c.timezone.in_(lost))


def _rows(table: Table, of_group: Any = lambda column: column) -> Select[Any]:
    """The user_id (NULL where a table has none) of the table's rows; no instant is known."""
    user_id = of_group(table.c.user_id) if "user_id" in table.c else cast(null(), Text)
    since = cast(null(), DateTime(timezone=True)).label("since")
    return select(user_id.label("user_id"), since).select_from(table)
