"""Rate limit and quota of the developer app: the arithmetic, without clock or database.

Four rules decide whether a call may go out, in this order:

1. The block. After a 429 no call goes out before it has passed. After a refusal of the app itself
   it lasts an hour, and then one call probes while the others wait for the result.
2. The circuit breaker. When Spotify answers none of OUTAGE_USERS users in a row, the outage is the
   app's: no call goes out, but every OUTAGE_PROBE_SECONDS one call probes. A request may probe
   after REQUEST_PROBE_SECONDS. Any response closes it.
3. The day. All calls of the last 24 hours must be below a share of `calls_per_day` that depends on
   the priority: see PER_CENT.
4. The pace. At most `calls_per_window` calls in any 30 seconds, by GCRA: see Quota.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from spotify_pipeline.domain.outcome import RECENTLY_PLAYED, TOP_ARTISTS, TOP_TRACKS

# Requests first, because users wait for them; then plays, which are lost if they are not fetched in
# time; then top lists, which change slowly.
Priority = Literal["request", "plays", "tops"]
# RATE: too many calls. QUOTA: the day's quota is used up. APP: Spotify refuses the app.
BlockReason = Literal["RATE", "QUOTA", "APP"]

# Up to how many per cent of the day's calls, and of the pace's burst, each may go. So top lists
# stop first when the day runs low, and 20 % are left to requests. In the burst it makes a
# queue: under contention, requests are admitted as soon as there is any room.
PER_CENT: dict[Priority, int] = {"request": 100, "plays": 80, "tops": 60}

APP_BLOCK_SECONDS = 3600
# The longest Retry-After that is accepted: a typo in a header must not block an app for years.
LONGEST_PAUSE_SECONDS = 7 * 24 * 3600
# No block lasts longer. One that ends later was written by a wrong clock, and is ignored.
LONGEST_BLOCK_SECONDS: dict[BlockReason, int] = {
    "RATE": LONGEST_PAUSE_SECONDS,
    "QUOTA": LONGEST_PAUSE_SECONDS,
    "APP": APP_BLOCK_SECONDS,
}

OUTAGE_USERS = 3
# Less than a quarter of an hour: one probe at each tick of `plays_poll`.
OUTAGE_PROBE_SECONDS = 600
REQUEST_PROBE_SECONDS = 60

# A permit expires if it is not used this soon after it was requested.
PERMIT_SECONDS = 1.0
# The longest way of a call from there to Spotify's counter.
TRAVEL_SECONDS = 1.0

# The day is counted in slots. 24 hours reach into 97 of them; one more because a permit of the
# last second of a slot is used in the next.
SLOT_SECONDS = 900
SLOTS = 98

# From an hour to four at most: of a real year's plays 0.1 % were lost when polling every 3 hours,
# and 4 % at 6.
LONGEST_STRETCH = 4.0
STRETCH_BELOW = 0.5

# Calls per user and day: of a user who is polled every hour, and one per top list each night.
POLLS, TOP_LISTS = 24, len(TOP_ARTISTS) + len(TOP_TRACKS)


def priority_of(step: str, *, scheduled: bool) -> Priority:
    """The priority of a step's call; scheduled ones are split into plays and top lists."""
    if not scheduled:
        return "request"
    return "plays" if step == RECENTLY_PLAYED else "tops"


@dataclass(frozen=True, slots=True)
class Quota:
    """How many calls may be made, in any 30 seconds and in any 24 hours. 0: no limit.

    The pace is GCRA (ITU-T I.371) with a burst of B calls and one call per interval T after that:
    in any time t it admits at most B + t / T calls. T = X / (calls - B + 1) makes that fewer than
    calls + 1, so at most `calls`, in any time shorter than X. Spotify counts calls when they
    arrive, so X is the window plus the time between a permit and its call's arrival. B is a tenth
    of the calls: with 90 calls, 9 at once and then one every 0.39 s.
    """

    calls_per_window: int
    calls_per_day: int
    window_seconds: float = 30.0
    # Calls of the burst that a sync of many users leaves to a user who waits alone, so that their
    # calls are admitted as soon as there is any room.
    spare: int = 0

    @property
    def is_limited(self) -> bool:
        """Whether calls have to be counted at all."""
        return bool(self.calls_per_window or self.calls_per_day)

    @property
    def burst(self) -> int:
        """Calls at once after a silence."""
        return max(1, self.calls_per_window // 10)

    @property
    def interval_seconds(self) -> float:
        """Time between two calls after the burst; 0 without a limit."""
        if not self.calls_per_window:
            return 0.0
        seconds = self.window_seconds + PERMIT_SECONDS + TRAVEL_SECONDS
        return seconds / (self.calls_per_window - self.burst + 1)

    @property
    def longest_pace_seconds(self) -> float:
        """How far ahead `rate_tat` can be; beyond that a wrong clock wrote it, and it is ignored.

        A full burst takes no longer than a window to drain. A second more, for a clock that is
        set back by less.
        """
        return self.window_seconds + PERMIT_SECONDS + TRAVEL_SECONDS + 1

    def burst_of(self, priority: Priority) -> int:
        """The part of the burst that this priority may use; each gets at least one call."""
        return max(1, self.burst * PER_CENT[priority] // 100 - self.spare)

    def day_of(self, priority: Priority) -> int:
        """Up to how many calls in 24 hours this priority may go."""
        return self.calls_per_day * PER_CENT[priority] // 100

    def users_served(self, hours: float) -> int:
        """How many users keep polls `hours` apart, 1 to 2, with top lists every night.

        Of more than at 2 hours, top lists are no longer fetched every night: see PER_CENT and
        due_stretch.
        """
        calls = self.day_of("plays") * (1 - STRETCH_BELOW / hours)
        return int(calls / (POLLS / hours + TOP_LISTS))

    def users_at_pace(self) -> int:
        """How many users the pace serves with polls every hour and top lists every night."""
        calls = timedelta(days=1).total_seconds() / self.interval_seconds
        return int(calls / (POLLS + TOP_LISTS))


@dataclass(frozen=True, slots=True)
class BudgetState:
    """The row of `api_budget` as it stood at `now`, by the database's clock."""

    now: datetime
    # GCRA's theoretical arrival time.
    rate_tat: datetime
    # Calls per slot, newest first; the first is the slot number `day_slot` since 1970.
    day_slot: int
    day_calls: Sequence[int]
    blocked_until: datetime | None
    blocked_reason: BlockReason | None
    # NULL while the circuit breaker is closed.
    outage_until: datetime | None = None
    # Changes with every change of the row.
    version: str = ""

    def outage_seconds(self, priority: Priority | None) -> float | None:
        """How long until a call of this priority may probe; None: there is no outage.

        An end that is later than it can be was written by a wrong clock: the probe is due.
        """
        if self.outage_until is None:
            return None
        seconds = (self.outage_until - self.now).total_seconds()
        if seconds > OUTAGE_PROBE_SECONDS:
            return 0.0
        if priority == "request":
            seconds -= OUTAGE_PROBE_SECONDS - REQUEST_PROBE_SECONDS
        return max(0.0, seconds)

    @property
    def blocked_seconds(self) -> float:
        """How long the block still lasts; 0 if there is none, or none that can be true."""
        if self.blocked_until is None or self.blocked_reason is None:
            return 0.0
        seconds = (self.blocked_until - self.now).total_seconds()
        return max(0.0, seconds) if seconds <= LONGEST_BLOCK_SECONDS[self.blocked_reason] else 0.0

    @property
    def is_blocked(self) -> bool:
        """Whether all calls are blocked now."""
        return self.blocked_seconds > 0

    @property
    def due_probe(self) -> Literal["APP", "OUTAGE"] | None:
        """What a call that nothing holds back has to probe: the refused app, or an outage."""
        if self.blocked_reason == "APP" and not self.is_blocked:
            return "APP"
        return "OUTAGE" if self.outage_until else None

    def slots(self) -> list[int]:
        """Calls per slot of the last 24 hours, newest first, the current one included."""
        passed = self._slot - self.day_slot
        slots = [0] * min(max(passed, 0), SLOTS) + list(self.day_calls)
        return slots[:SLOTS]

    @property
    def _slot(self) -> int:
        return int(self.now.timestamp() // SLOT_SECONDS)

    def calls_of_day(self) -> int:
        """Calls of the last 24 hours."""
        return sum(self.slots())

    def calls_left(self, quota: Quota) -> int:
        """Calls that requests may still make in these 24 hours; 0 also without a limit."""
        return max(0, quota.calls_per_day - self.calls_of_day())

    def pace_seconds(self, quota: Quota) -> float:
        """How far ahead of now `rate_tat` is; 0 if it has passed, or is further than it can be."""
        ahead = (self.rate_tat - self.now).total_seconds()
        return max(0.0, ahead) if ahead <= quota.longest_pace_seconds else 0.0

    def with_call(self, quota: Quota) -> tuple[datetime, int, list[int]]:
        """`rate_tat`, `day_slot` and `day_calls` after one call more.

        Never a slot of the future, which a wrong clock wrote: its calls would count for ever.
        """
        seconds = self.pace_seconds(quota) + quota.interval_seconds
        newest, *older = self.slots() or [0]
        return self.now + timedelta(seconds=seconds), self._slot, [newest + 1, *older]


@dataclass(frozen=True, slots=True)
class ThrottleReason:
    """Why a call must not go out now, and for how long at least."""

    reason: BlockReason | Literal["OUTAGE", "DAY", "PACE"]
    seconds: float

    @property
    def what_happened(self) -> str:
        """The reason as a clause."""
        seconds = f"{math.ceil(self.seconds)} s"
        return {
            "APP": f"Spotify refused the app and is asked again in {seconds}",
            "OUTAGE": f"Spotify does not answer and is asked again in {seconds}",
            "DAY": f"the calls of these 24 hours are used up, the next is in {seconds}",
            "PACE": "more calls wait than the pace lets through",
        }.get(self.reason, f"Spotify asked for a pause of {seconds}")


def throttle_reason(
    state: BudgetState,
    quota: Quota,
    priority: Priority | None,
    *,
    probing: bool = False,
    on_behalf_of: Priority | None = None,
) -> ThrottleReason | None:
    """Why a call of this priority must wait; None: it may go out.

    A priority of None is a call that Spotify does not count: only a block or an outage holds it
    back; `on_behalf_of` is then the priority of the call that needs it. `probing`: for the one call
    that is let through to see whether the app is still refused, or the outage has ended.
    """
    is_app_probe = probing and state.blocked_reason == "APP"
    if state.blocked_reason and state.is_blocked and not is_app_probe:
        return ThrottleReason(state.blocked_reason, state.blocked_seconds)
    outage = None if probing else state.outage_seconds(priority or on_behalf_of)
    if outage:
        return ThrottleReason("OUTAGE", outage)
    if priority is None:
        return None
    if quota.calls_per_day:
        seconds = _until_day_has_room(state, quota.day_of(priority))
        if seconds > 0:
            return ThrottleReason("DAY", seconds)
    if quota.calls_per_window:
        seconds = state.pace_seconds(quota)
        seconds -= quota.interval_seconds * (quota.burst_of(priority) - 1)
        # Instants are rounded to microseconds: that is not to cost a whole interval.
        if seconds > quota.interval_seconds / 1000:
            return ThrottleReason("PACE", seconds)
    return None


def _until_day_has_room(state: BudgetState, limit: int) -> float:
    """Seconds until fewer than `limit` calls lie in the last 24 hours."""
    slots = state.slots()
    into_slot = state.now.timestamp() % SLOT_SECONDS
    for passing in range(SLOTS):
        if sum(slots[: SLOTS - passing]) < limit:
            return passing * SLOT_SECONDS - into_slot if passing else 0.0
    return timedelta(days=1).total_seconds()


def due_stretch(state: BudgetState, quota: Quota) -> float:
    """How many times longer polls should wait, because the day's calls for plays run low.

    1 while at least half of them are left, then in proportion to what is left, 4 at most.
    """
    calls = quota.day_of("plays")
    if not quota.calls_per_day or not calls:
        return 1.0
    left = max(0.0, 1 - state.calls_of_day() / calls)
    return min(LONGEST_STRETCH, max(1.0, STRETCH_BELOW / left)) if left else LONGEST_STRETCH
