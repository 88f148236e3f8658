"""Many Python values as one parameter of a statement: rows as a table, or a list to be among."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import ARRAY, Column, Table, Text, cast, column, func, literal, select
from sqlalchemy.dialects.postgresql import JSON, Insert, insert
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

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
    given = bulk_rows(rows, types_of([table.c[name] for name in names]), "given")
    return insert(table).from_select(names, select(*given.c))


def as_row(value: "DataclassInstance") -> Row:
    """The fields of a dataclass by name; unlike `asdict` it copies nothing."""
    return {name: getattr(value, name) for name in _names(type(value))}


@cache
def _names(kind: "type[DataclassInstance]") -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def types_of(columns: Sequence[Column[Any]]) -> dict[str, TypeEngine[Any]]:
    """The types of a table's columns, for `bulk_rows`."""
    return {column.name: column.type for column in columns}


def _plain(value: object) -> str:
    if isinstance(value, date):  # datetimes too
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written")
