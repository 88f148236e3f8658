"""Bisects a batch of users: one user's bad data, or a bug it triggers, fails that user only."""

import logging
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from spotify_pipeline.storage.postgres.locks import is_lock_timeout
from spotify_pipeline.storage.postgres.types import DataError, DBAPIError, IntegrityError

log = logging.getLogger(__name__)

User = TypeVar("User")


def affects_one_user(error: Exception) -> bool:
    """Whether a user's data can have caused it; a lost connection, for one, affects all users."""
    if isinstance(error, DBAPIError):
        # Locks are waited for per user: another session keeps this user's rows locked.
        return isinstance(error, DataError | IntegrityError) or is_lock_timeout(error)
    return not isinstance(error, MemoryError)


def warn(what_failed: str, error: Exception) -> None:
    """Logs the kind of an error and where it arose, never its text: that may quote the data."""
    kind = error.orig if isinstance(error, DBAPIError) else error
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    log.warning("%s: %s at %s", what_failed, type(kind).__name__, where)


def bisect(users: Sequence[User], work: Callable[[Sequence[User]], None]) -> list[User]:
    """Do the work for as many of these users as possible; returns the users who make it fail.

    `work` is transactional: all of it or nothing. When it fails it is done again for each half, and
    so on: one bad user among a hundred costs some fifteen tries. Raises errors that affect all
    users.
    """
    if not users:
        return []
    try:
        work(users)
    except Exception as error:
        if not affects_one_user(error):
            raise
        if len(users) == 1:
            warn("One user's data was refused", error)
            return list(users)
        middle = len(users) // 2
        return [*bisect(users[:middle], work), *bisect(users[middle:], work)]
    return []
