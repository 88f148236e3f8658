"""Finds schema drift: tables in the database that differ from their definitions."""

from sqlalchemy import Connection, Table, inspect, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from spotify_pipeline.storage import tables as t

_POSTGRES = postgresql.dialect()  # type: ignore[no-untyped-call]

# Constraints that hold for every row, and indexes. A trigger of any kind that was switched off
# also means that a foreign key is not compared.
_GUARDS = text("""
    SELECT conname FROM pg_constraint WHERE conrelid = CAST(:named AS regclass) AND convalidated
    UNION
    SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = CAST(:named AS regclass) AND i.indisvalid
""")
_SWITCHED_OFF = text("""
    SELECT count(*) FROM pg_trigger
    WHERE tgrelid = CAST(:named AS regclass) AND tgenabled IN ('D', 'R')
""")


def all_differences(conn: Connection) -> list[str]:
    """The differences of every table of ours, each with the table's name."""
    return [
        f"{table.name}: {difference}"
        for table in t.metadata.sorted_tables
        for difference in differences(conn, table)
    ]


def differences(conn: Connection, table: Table) -> list[str]:
    """Missing, different and additional objects of the database, a phrase each; never data."""
    database = inspect(conn)
    if not database.has_table(table.name, t.SCHEMA):
        return [f"the table {table.name} is missing"]
    named = {"named": table.fullname}
    found = {
        column["name"]: _described(column["type"], column["nullable"])
        for column in database.get_columns(table.name, t.SCHEMA)
    }
    wanted = {column.name: _described(column.type, bool(column.nullable)) for column in table.c}
    guards = {
        *(str(constraint.name) for constraint in table.constraints),
        *(str(index.name) for index in table.indexes),
    }
    differing = [
        *(f"the column {name} is missing" for name in wanted.keys() - found.keys()),
        *(f"the column {name} is not ours" for name in found.keys() - wanted.keys()),
        *(
            f"the column {name} is {found[name]}, not {wanted[name]}"
            for name in wanted.keys() & found.keys()
            if found[name] != wanted[name]
        ),
        *(f"{name} is missing" for name in guards - set(conn.scalars(_GUARDS, named))),
    ]
    if conn.scalar(_SWITCHED_OFF, named):
        differing.append("triggers are switched off")
    return sorted(differing)


def _described(type_: TypeEngine[object], nullable: bool | None) -> str:
    # Two names of one type.
    name = type_.compile(dialect=_POSTGRES).replace("FLOAT(53)", "DOUBLE PRECISION")
    return f"{name} {'NULL' if nullable else 'NOT NULL'}"
