"""Keeps Postgres from plans that are slow where its statistics are wrong."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, func, select


@contextmanager
def hash_joins(conn: Connection) -> Iterator[None]:
    """Joins of the statements inside read each table once, whatever Postgres expects to find there.

    Where one user has imported, the statistics say that others have nothing; Postgres then chose
    nested loops, in which 100,000 rows read 100,000 rows each. For statements over all rows of
    one user. An error ends the transaction, and so the setting.
    """
    conn.execute(select(func.set_config("enable_nestloop", "off", True)))
    yield
    conn.execute(select(func.set_config("enable_nestloop", "on", True)))
