"""SQLAlchemy's types and errors that other layers name in signatures and `except`.

Statements are not here: SQL is written in storage only, which import-linter checks.
"""

from sqlalchemy import Connection, Engine, Table
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
