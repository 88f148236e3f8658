"""The steps of a sync and their dependencies, and the outcome of a sync per user and step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.domain.model import TIME_RANGES, TimeRange

RECENTLY_PLAYED = "recently_played"
DAILY_LISTENING = "daily_listening"
MUSIC_PERSONALITY = "music_personality"
PROFILE_REVALIDATION = "profile_revalidation"

TOP_ARTISTS: dict[str, TimeRange] = {f"top_artists/{r}": r for r in TIME_RANGES}
TOP_TRACKS: dict[str, TimeRange] = {f"top_tracks/{r}": r for r in TIME_RANGES}

# The inputs of each step. Also the edges of the asset graph.
NEEDS: dict[str, tuple[str, ...]] = {
    RECENTLY_PLAYED: (),
    **{step: () for step in (*TOP_ARTISTS, *TOP_TRACKS)},
    DAILY_LISTENING: (RECENTLY_PLAYED,),
    MUSIC_PERSONALITY: (DAILY_LISTENING, *TOP_ARTISTS, *TOP_TRACKS),
    PROFILE_REVALIDATION: (MUSIC_PERSONALITY,),
}

STEPS: tuple[str, ...] = tuple(NEEDS)
FETCHED: tuple[str, ...] = (RECENTLY_PLAYED, *TOP_ARTISTS, *TOP_TRACKS)
REBUILT: tuple[str, ...] = (DAILY_LISTENING, MUSIC_PERSONALITY)

# The steps that a failed step stops. A failed top list keeps its old rows and stops nothing; the
# app is notified of the steps that succeeded.
STOPPED_BY: dict[str, tuple[str, ...]] = {
    RECENTLY_PLAYED: (DAILY_LISTENING, MUSIC_PERSONALITY),
    DAILY_LISTENING: (MUSIC_PERSONALITY,),
}


# synced: every step done. failed: at least one was not. skipped: another process is syncing this
# user or keeps the rows locked. gone: there is no such user (any more).
Result = Literal["synced", "failed", "skipped", "gone"]

# Why a user is skipped whose rows another session keeps locked.
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
    # Fields that Spotify left out of every item: apps in development mode get less.
    not_provided: tuple[str, ...] = ()
    # What went wrong without failing the step.
    remark: str | None = None


@dataclass(frozen=True, slots=True)
class StepFailure:
    """Why a step failed: a code of the closed list and a sentence that says what to do."""

    code: ErrorCode
    message: str
    # What the user reads in the answered request; None: the sentence of the code.
    what_to_do: str | None = None
    # No call was made, or Spotify refused the app's calls for all users: not this user's failure.
    is_held_back: bool = False

    @classmethod
    def of(cls, code: ErrorCode, what_happened: str | None = None) -> "StepFailure":
        """The failure with the sentence of its code."""
        detail = f" ({what_happened})" if what_happened else ""
        return cls(code, WHAT_TO_DO[code] + detail)


@dataclass(slots=True)
class UserOutcome:
    """One user's sync: the steps done, the steps failed, how long it took."""

    user_id: str
    done: dict[str, StepRows] = field(default_factory=dict)
    failures: dict[str, StepFailure] = field(default_factory=dict)
    new_plays: int = 0
    seconds: float = 0.0
    # Why nothing was attempted, in a sentence.
    skipped: str | None = None
    gone: bool = False
    # No plays were ever fetched before.
    first: bool = False
    # An earlier process may have stored this and died before it emitted it.
    retried: bool = False
    # The sync before this one failed, and this one did not.
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
    def changes(self) -> dict[str, StepRows]:
        """The steps done that changed something; in a first sync and after a crash all of them."""
        everything = self.first or self.retried
        return {
            step: rows
            for step, rows in self.done.items()
            if everything or rows.new or rows.changed or rows.remark
        }

    @property
    def failure(self) -> StepFailure | None:
        """The failure that stands for the whole sync: the first in graph order."""
        return next(iter(self.failures.values()), None)

    @property
    def error_code(self) -> ErrorCode | None:
        """Its code."""
        return self.failure.code if self.failure else None

    @property
    def must_reconnect(self) -> bool:
        """The user has to connect Spotify again: no failure of the pipeline."""
        return self.error_code is ErrorCode.RECONNECT


def still_possible(failed: Iterable[str], steps: Sequence[str]) -> list[str]:
    """The steps that may still run once these have failed, in order."""
    out = {later for step in failed for later in STOPPED_BY.get(step, ())} | set(failed)
    return [step for step in steps if step not in out]
