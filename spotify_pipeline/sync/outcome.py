"""What came of a sync, per user and step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from spotify_pipeline.domain.error_codes import ErrorCode
from spotify_pipeline.domain.steps import STOPPED_BY

# synced: every step done. failed: at least one was not. skipped: nothing was due, or somebody else
# is syncing this user. gone: the user was forgotten meanwhile.
Result = Literal["synced", "failed", "skipped", "gone"]

# Why a user was left out whose rows another session keeps locked.
BLOCKED = (
    "Another database session keeps this user's rows locked: end its transaction (pg_stat_activity "
    "shows it). The user is due again at the next poll."
)


@dataclass(frozen=True, slots=True)
class StepRows:
    """Rows of a step's table for this user after it ran, and how many were new or changed."""

    total: int
    new: int = 0
    changed: int = 0
    # Fields that Spotify left out of every item of its answer: apps in development mode get less.
    not_provided: tuple[str, ...] = ()
    # What went wrong without failing the step.
    remark: str | None = None


@dataclass(frozen=True, slots=True)
class StepFailure:
    """Why a step failed: a code of the closed list and a sentence that says what to do."""

    code: ErrorCode
    message: str
    # What the listener is told; None: what the code says.
    what_to_do: str | None = None


@dataclass(slots=True)
class UserOutcome:
    """One user's sync: the steps done, the steps failed, how long it took."""

    user_id: str
    done: dict[str, StepRows] = field(default_factory=dict)
    failures: dict[str, StepFailure] = field(default_factory=dict)
    new_plays: int = 0
    seconds: float = 0.0
    # Set when nothing was attempted, with the reason in words.
    skipped: str | None = None
    gone: bool = False
    # No plays were ever fetched before.
    first: bool = False
    # Perhaps synced before by a process that died before it could tell what was new.
    retried: bool = False
    # The sync before this one failed, and what it failed at works again.
    recovered: bool = False

    @property
    def result(self) -> Result:
        """The one word stored in sync_run_users."""
        if self.gone:
            return "gone"
        if self.failures:
            return "failed"
        return "skipped" if self.skipped else "synced"

    @property
    def news(self) -> dict[str, StepRows]:
        """The steps done that changed something; in a first sync and a second try all of them."""
        everything = self.first or self.retried
        return {
            step: rows
            for step, rows in self.done.items()
            if everything or rows.new or rows.changed or rows.remark
        }

    @property
    def failure(self) -> StepFailure | None:
        """The failure that speaks for the whole sync: the first in graph order."""
        return next(iter(self.failures.values()), None)

    @property
    def error_code(self) -> ErrorCode | None:
        """Its code."""
        return self.failure.code if self.failure else None


def still_possible(failed: Iterable[str], steps: Sequence[str]) -> list[str]:
    """The steps that may still run once these have failed, in order."""
    out = {later for step in failed for later in STOPPED_BY.get(step, ())} | set(failed)
    return [step for step in steps if step not in out]
