"""Bulk reads and writes: many rows as one parameter of a statement, upserts, frames."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Connection,
    Table,
    Text,
    and_,
    cast,
    column,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import JSON, Insert, insert
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine

if TYPE_CHECKING:
    import pandas as pd
    from _typeshed import DataclassInstance

    Filled = TypeVar("Filled", bound=DataclassInstance)


def records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Rows of a frame as Python values; every kind of missing (NaN, NA, NaT) is None."""
    plain = frame.astype(object)
    return plain.where(plain.notna(), None).to_dict("records")  # type: ignore[return-value]


def frame(rows: Iterable[Sequence[Any]], columns: Iterable[str]) -> "pd.DataFrame":
    """Rows of a query as a frame. pandas reads tuples ten times faster than SQLAlchemy's rows."""
    import pandas as pd  # here, because the code location loads this module and never a frame

    return pd.DataFrame([tuple(row) for row in rows], columns=list(columns))


Row = Mapping[str, Any]


def bulk_rows(
    rows: Sequence[Row], types: Mapping[str, TypeEngine[Any]], name: str
) -> TableValuedAlias:
    """A table called `name` with these rows in their order, and a column per entry of `types`.

    The rows are one parameter, JSON. With a parameter per value, SQLAlchemy and the driver took ten
    times as long as Postgres for the top lists of a thousand users.
    """
    # As text: SQLAlchemy would encode a JSON value once more, and cannot encode instants.
    text = literal(json.dumps(rows, default=_plain, ensure_ascii=False, allow_nan=False), Text)
    columns = [column(key, type_) for key, type_ in types.items()]
    table = func.json_to_recordset(cast(text, JSON)).table_valued(*columns, name=name)
    return table.render_derived(with_types=True)


def array_rows(name: str, **columns: tuple[TypeEngine[Any], Iterable[Any]]) -> TableValuedAlias:
    """A table called `name` with an array parameter per column, given as (type, values).

    The same statement for any number of rows: one cached plan.
    """
    arrays = [literal(list(values), ARRAY(type_)) for type_, values in columns.values()]
    return func.unnest(*arrays).table_valued(*columns, name=name).render_derived()


def any_of(column: ColumnElement[Any], values: Iterable[Any]) -> ColumnElement[bool]:
    """`column = ANY (values)`. IN takes a parameter per value, and a statement 65,535 at most."""
    return column == func.any(literal(list(values), ARRAY(column.type)))


def insert_rows(table: Table, rows: Sequence[Row]) -> Insert:
    """The statement that inserts these rows, one at least, all with the same columns."""
    names = list(rows[0])
    given = _given(table, names, rows)
    return insert(table).from_select(names, select(*given.c))


def _given(table: Table, names: Sequence[str], rows: Sequence[Row]) -> TableValuedAlias:
    return bulk_rows(rows, {name: table.c[name].type for name in names}, "given")


def as_row(value: "DataclassInstance") -> Row:
    """The fields of a dataclass by name; unlike `asdict` it copies nothing."""
    return {name: getattr(value, name) for name in _names(type(value))}


def from_row(kind: "type[Filled]", row: Mapping[Any, Any]) -> "Filled":
    """A dataclass from a row with its fields by name; a field without a column has its default."""
    return kind(**{name: row[name] for name in _names(kind) if name in row})


@cache
def _names(kind: "type[DataclassInstance]") -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _plain(value: object) -> str:
    if isinstance(value, date):  # datetimes too
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written")


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

    given = _given(table, names, ordered)
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
