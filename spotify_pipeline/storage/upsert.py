"""Writes only what changed, and says how much that was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, func, literal_column, or_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.elements import ColumnElement

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Written:
    """Keys of the rows that a write inserted and of those it changed; the rest stood already."""

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

    `keep_known` columns are not overwritten with NULL: a response that leaves a field out says
    nothing about it. `stamps` are written with a change but are no reason for one. Rows are sorted
    by key, so that two writers of a shared table cannot deadlock. Returns the keys written.
    """
    if not rows:
        return Written()
    keys = [column.name for column in table.primary_key]
    ordered = sorted(rows, key=lambda row: tuple(row[key] for key in keys))
    given = [name for name in ordered[0] if name not in keys]
    statement = insert(table)
    new: dict[str, ColumnElement[Any]] = {
        name: func.coalesce(statement.excluded[name], table.c[name])
        if name in keep_known
        else statement.excluded[name]
        for name in given
    }
    differs = [table.c[name].is_distinct_from(new[name]) for name in given if name not in stamps]
    # xmax is 0 in a row that this statement inserted; rowcount is no help with ON CONFLICT.
    written = conn.execute(
        statement.on_conflict_do_update(
            index_elements=keys, set_=new, where=or_(*differs)
        ).returning(*(table.c[key] for key in keys), literal_column("xmax = 0")),
        ordered,
    ).all()
    return Written(
        inserted=tuple(tuple(row[:-1]) for row in written if row[-1]),
        changed=tuple(tuple(row[:-1]) for row in written if not row[-1]),
    )
