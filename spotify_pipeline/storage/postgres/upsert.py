"""Upserts that write only changed rows and report which."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Table, Text, and_, func, literal_column, not_, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.elements import ColumnElement

from spotify_pipeline.storage.postgres.bulk import Row, bulk_rows, types_of


@dataclass(frozen=True, slots=True)
class Written:
    """Keys of the rows that a write inserted, and of those it changed."""

    inserted: tuple[tuple[Any, ...], ...] = ()
    changed: tuple[tuple[Any, ...], ...] = ()

    @property
    def total(self) -> int:
        """Rows inserted or changed."""
        return len(self.inserted) + len(self.changed)


def upsert_changed(
    conn: Connection,
    table: Table,
    rows: Sequence[Row],
    *,
    keep_known: Sequence[str] = (),
    stamps: Sequence[str] = (),
) -> Written:
    """Insert rows by primary key; update those that differ; leave equal ones alone.

    `keep_known` columns are not overwritten with NULL or an empty text, because responses leave
    fields out or empty them. `stamps` are written with a change but do not count as one. Rows are
    sorted by key, so that two writers of a shared table cannot deadlock.
    Returns the keys written.
    """
    if not rows:
        return Written()
    keys = [column.name for column in table.primary_key]
    ordered = sorted(rows, key=itemgetter(*keys))
    names = list(ordered[0])

    def differs(new: Any) -> ColumnElement[bool]:
        return or_(
            *(
                table.c[name].is_distinct_from(_value(new, table, name, keep_known))
                for name in names
                if name not in (*keys, *stamps)
            )
        )

    given = bulk_rows(ordered, types_of([table.c[name] for name in names]), "given")
    same = and_(*(table.c[key] == given.c[key] for key in keys), not_(differs(given.c)))
    # Equal rows are left out first: ON CONFLICT would lock them, and popular artists are in every
    # chunk.
    new = select(*given.c).where(~select(literal_column("1")).where(same).exists())
    statement = insert(table).from_select(names, new)
    excluded = statement.excluded
    # xmax is 0 in a row that this statement inserted; rowcount is no help with ON CONFLICT.
    written = conn.execute(
        statement.on_conflict_do_update(
            index_elements=keys,
            set_={
                name: _value(excluded, table, name, keep_known)
                for name in names
                if name not in keys
            },
            where=differs(excluded),
        ).returning(*(table.c[key] for key in keys), literal_column("xmax = 0"))
    ).all()
    return Written(
        inserted=tuple(tuple(row[:-1]) for row in written if row[-1]),
        changed=tuple(tuple(row[:-1]) for row in written if not row[-1]),
    )


def _value(new: Any, table: Table, name: str, keep_known: Sequence[str]) -> ColumnElement[Any]:
    """The new value of a column, or the known one if the new one is missing (`keep_known`)."""
    value: ColumnElement[Any] = new[name]
    if name not in keep_known:
        return value
    if isinstance(table.c[name].type, Text):
        # Where nothing was ever known an empty text stays one, for columns that are NOT NULL.
        return func.coalesce(func.nullif(value, ""), table.c[name], value)
    return func.coalesce(value, table.c[name])
