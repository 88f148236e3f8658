"""Shared by all tables: metadata, naming of constraints, and a few column shapes.

Every instant is `timestamptz` and read back in UTC. Every table and every column has a comment.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    MetaData,
    Text,
    text,
)

from spotify_pipeline.domain.error_codes import ErrorCode

SCHEMA = "spotify_pipeline"

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    },
)

# Views, to select from and to comment: storage/sql makes them, and no migration.
views = MetaData(schema=SCHEMA)

Instant = DateTime(timezone=True)


def user_column(*, primary_key: bool = False) -> Column[str]:
    """The user a row belongs to; deleted with that user."""
    return Column(
        "user_id",
        Text,
        ForeignKey(f"{SCHEMA}.users.user_id", ondelete="CASCADE"),
        primary_key=primary_key,
        nullable=False,
        comment="The user this row belongs to; deleted with the user.",
    )


def singleton_column() -> Column[bool]:
    """The key of a table of at most one row, with its CHECK `rule("singleton", "singleton")`."""
    return described(
        "singleton",
        Boolean,
        "Always true: there is at most one row.",
        primary_key=True,
        server_default=text("true"),
    )


def rule(name: str, condition: str) -> CheckConstraint:
    """A CHECK called `ck_<table>_<name>`."""
    return CheckConstraint(condition, name=name)


def one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    """A CHECK that a text column holds one of a closed list (or NULL, where it may)."""
    listed = ", ".join(f"'{value}'" for value in values)
    return rule(column, f"{column} IN ({listed})")


def error_code(column: str) -> CheckConstraint:
    """A CHECK that a column holds an error code of the closed list."""
    return one_of(column, ErrorCode)


def described(name: str, type_: Any, comment: str, *args: Any, **options: Any) -> Column[Any]:
    """A column with its comment, NOT NULL."""
    return Column(name, type_, *args, comment=comment, nullable=False, **options)


def optional(name: str, type_: Any, comment: str, *args: Any, **options: Any) -> Column[Any]:
    """A column with its comment that may be NULL."""
    return Column(name, type_, *args, comment=comment, **options)
