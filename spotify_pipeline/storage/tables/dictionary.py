"""Tables and views as data engineers read about them: types, keys and comments."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from spotify_pipeline.storage.tables.base import SCHEMA, metadata, views

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class DescribedColumn:
    """A column; `type` is Postgres's name in lower case, such as `text[]`."""

    name: str
    type: str
    nullable: bool
    comment: str


@dataclass(frozen=True, slots=True)
class DescribedTable:
    """A table or view; `key` are the names of its primary key's columns, () for a view."""

    name: str
    comment: str
    key: tuple[str, ...]
    columns: tuple[DescribedColumn, ...]


def described_tables(names: Iterable[str]) -> Iterator[DescribedTable]:
    """The tables and views of these names, in this order. Raises KeyError for an unknown name."""
    known = metadata.tables | views.tables
    for name in names:
        yield _described(known[f"{SCHEMA}.{name}"])


def _described(table: Table) -> DescribedTable:
    return DescribedTable(
        name=table.name,
        comment=table.comment or "",
        key=tuple(column.name for column in table.primary_key.columns),
        columns=tuple(
            DescribedColumn(
                column.name,
                column.type.compile(_DIALECT).lower(),
                bool(column.nullable),
                column.comment or "",
            )
            for column in table.columns
        ),
    )
