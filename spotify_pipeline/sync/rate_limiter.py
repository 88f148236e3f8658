"""The rate limiter of a process on the shared budget: when each call to Spotify may go out.

Permits are booked in Postgres for as many calls as threads are waiting, five at most, and used at
once. So no permit is wasted, and a block that another process wrote stops the very next call.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from spotify_pipeline.domain.quota import (
    APP_BLOCK_SECONDS,
    OUTAGE_PROBE_SECONDS,
    PER_CENT,
    PERMIT_SECONDS,
    BlockReason,
    Priority,
    Quota,
    ThrottleReason,
    due_stretch,
    throttle_reason,
)
from spotify_pipeline.spotify.errors import (
    AppBlocked,
    LimitReason,
    Outage,
    RateLimited,
    SpotifyError,
)
from spotify_pipeline.storage.postgres.types import Connection, Engine
from spotify_pipeline.storage.work import api_budget

BATCH = 5
# No call waits longer here, and no sync longer for blocks.
LONGEST_WAIT_SECONDS = 60.0
# A sleep to the very instant would be followed by one of a microsecond.
SHORTEST_WAIT_SECONDS = 0.01
# Refreshing a token and asking once may take so long; after that the probe counts as inconclusive.
PROBE_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Span:
    """The time that intervals cover, each beginning no earlier than the one before."""

    seconds: float = 0.0
    until: float = -math.inf

    def growth(self, start: float, seconds: float) -> float:
        """By how much this interval would prolong it."""
        return max(0.0, start + seconds - max(start, self.until))

    def add(self, start: float, seconds: float) -> None:
        self.seconds += self.growth(start, seconds)
        self.until = max(self.until, start + seconds)


class SharedRateLimiter:
    """A RateLimiter on the row that all processes share; made per process, for all its threads.

    A call waits at most 60 s in all. During a block a sync waits at most 60 s in all,
    whichever of its threads wait; after that its calls are refused at once. Raises RateLimited,
    AppBlocked or SQLAlchemyError.
    """

    def __init__(
        self,
        engine: Engine,
        quota: Quota,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._quota = quota
        self._sleep = sleep
        self._monotonic = monotonic
        # Held during the query of Postgres: waiting threads use its result.
        self._lock = threading.Lock()
        self._queues: dict[Priority | None, set[int]] = {key: set() for key in (None, *PER_CENT)}
        # Permits, and the reason for throttling; both expire after a second.
        self._permits: dict[Priority | None, tuple[float, float]] = {}
        self._refused: dict[Priority | None, tuple[float, ThrottleReason]] = {}
        self._calls = 0
        self._throttled = _Span()
        self._blocked = _Span()
        self._patience = LONGEST_WAIT_SECONDS
        self._this_thread = threading.local()
        # Users whom Spotify did not answer since it last answered a call here, and whether an
        # answer has to be written to Postgres.
        self._unanswered: set[int] = set()
        # Threads whose call is on its way, and users who were answered in this sync.
        self._in_flight: set[int] = set()
        self._answered: set[int] = set()
        self._may_close_outage = True
        # Set unless a thread of this process is trying whether the app is still refused, or
        # whether an outage has ended.
        self._probe_over = threading.Event()
        self._probe_over.set()

    @property
    def calls(self) -> int:
        """Calls that Spotify counts and this process let out, those tried again included."""
        return self._calls

    @property
    def throttled_seconds(self) -> float:
        """How long calls of this process were held back; threads that wait together count once."""
        return self._throttled.seconds

    def due_stretch(self) -> float:
        """See `quota.due_stretch`, for the calls that are left now."""
        if not self._quota.calls_per_day:
            return 1.0
        with self._engine.connect() as conn:
            return due_stretch(api_budget.read_state(conn), self._quota)

    def begin(self, users: int = 1) -> None:
        """A sync of so many users begins: it may wait for blocks, however long the others waited.

        Of several users it gives way to the calls of a user who waits alone.
        """
        with self._lock:
            self._quota = replace(self._quota, spare=int(users > 1))
            self._patience = self._blocked.seconds + LONGEST_WAIT_SECONDS
            self._refused.clear()
            self._may_close_outage = True
            self._in_flight.clear()
            self._answered.clear()

    def closed_to(self, priority: Priority) -> ThrottleReason | None:
        """Why calls of this priority would wait too long; None: they may go out."""
        while True:
            probe_over = self._probe_over
            with self._lock:
                if self._is_probing() or self._use_permit(priority, 0):
                    return None
                throttled = self._remembered(priority) or self._look(priority)
                if throttled is None or self._may_wait(throttled, self._monotonic()):
                    return None
            if not self._probe_awaited(throttled, probe_over):
                return throttled

    def check(self, priority: Priority) -> None:
        """Raises what `acquire` would raise at once: asked before a token is refreshed in vain."""
        self._this_thread.priority = priority
        if throttled := self.closed_to(priority):
            raise _refusal(throttled)

    def acquire(self, priority: Priority | None) -> None:
        """See RateLimiter."""
        slept = 0.0
        while True:
            probe_over = self._probe_over
            if (throttled := self._pass(priority)) is None:
                break
            if self._probe_awaited(throttled, probe_over):
                continue
            seconds = max(throttled.seconds, SHORTEST_WAIT_SECONDS)
            with self._lock:
                now = self._monotonic()
                if slept + seconds > LONGEST_WAIT_SECONDS or not self._may_wait(throttled, now):
                    raise _refusal(throttled)
                if throttled.reason != "PACE":
                    self._blocked.add(now, seconds)
                self._throttled.add(now, seconds)
            self._sleep(seconds)
            slept += seconds
        if priority is not None:
            with self._lock:
                self._calls += 1
                self._in_flight.add(threading.get_ident())

    def blocked(self, seconds: int, reason: BlockReason) -> bool:
        """See RateLimiter. Every process sees it at its next call."""
        log.warning("No call to Spotify for %s s: %s", seconds, reason)
        with self._lock:
            with self._engine.connect() as conn:
                api_budget.block(conn, seconds, reason)
            self._permits.clear()
            self._end_probe()
            return self._may_wait(ThrottleReason(reason, seconds), self._monotonic())

    def succeeded(self) -> None:
        """See RateLimiter. After a probe all calls may go out again."""
        if not self._is_probing():
            return
        with self._lock:
            with self._engine.connect() as conn:
                api_budget.clear_block(conn, "APP")
            self._end_probe()

    def answered(self, caller: int) -> None:
        """See RateLimiter. Closes the circuit breaker; writes once a sync, and after failures."""
        self._in_flight.discard(threading.get_ident())
        self._answered.add(caller)
        if not self._may_close_outage:
            return
        with self._lock:
            with self._engine.connect() as conn:
                api_budget.note_answered(conn)
            self._unanswered.clear()
            self._may_close_outage = False
            if getattr(self._this_thread, "probes", None) == "OUTAGE":
                self._end_probe()

    def unanswered(self, caller: int) -> bool:
        """See RateLimiter. Opens the circuit breaker when several users in a row got no answer.

        Not while calls are on their way that may be answered, nor when more users of this sync were
        answered: that is the trouble of a few.
        """
        with self._lock:
            self._in_flight.discard(threading.get_ident())
            probing = self._is_probing() and self._this_thread.probes == "OUTAGE"
            if caller in self._unanswered and not probing:
                return True
            self._unanswered.add(caller)
            self._may_close_outage = True
            may_be_answered = max(len(self._in_flight), len(self._answered))
            if len(self._unanswered) < may_be_answered and not probing:
                return True
            with self._engine.connect() as conn:
                outage = api_budget.note_unanswered(conn)
            if outage:
                self._permits.clear()
                self._refused.clear()
            if probing:
                self._end_probe()
            return not outage

    def _pass(self, priority: Priority | None) -> ThrottleReason | None:
        """None: the call may go out now. Else what holds it back."""
        queue, me = self._queues[priority], threading.get_ident()
        queue.add(me)
        with self._lock:
            queue.discard(me)
            probing = self._is_probing()
            if not probing:
                if self._use_permit(priority):
                    return None
                if throttled := self._remembered(priority):
                    return throttled
            asked_at = self._monotonic()
            with self._engine.connect() as conn:
                answer = self._ask(conn, priority, min(BATCH, 1 + len(queue)), probing)
            if isinstance(answer, ThrottleReason):
                self._refused[priority] = (self._monotonic(), answer)
                return answer
            if self._is_probing():
                return None
            # From before the question: Postgres may have booked them long before its answer came.
            self._permits[priority] = (answer, asked_at + PERMIT_SECONDS)
            return None if self._use_permit(priority) else ThrottleReason("PACE", PERMIT_SECONDS)

    def _ask(
        self, conn: Connection, priority: Priority | None, calls: int, probing: bool
    ) -> float | ThrottleReason:
        """How many calls may go out, one at least, or what holds them back."""
        counted = priority is not None and self._quota.is_limited
        if priority is not None and counted:
            taken = api_budget.take(conn, self._quota, priority, calls, probing=probing)
            if taken:
                return taken
        state = api_budget.read_state(conn)
        # A token is refreshed for the call that `check` let pass.
        behalf: Priority | None = priority or getattr(self._this_thread, "priority", None)
        throttled = throttle_reason(
            state, self._quota, priority, probing=probing, on_behalf_of=behalf
        )
        if throttled:
            return throttled
        probes: Literal["APP", "OUTAGE"] | None = None
        if state.probe_is_due and not probing:
            if not api_budget.claim_probe(conn):
                return ThrottleReason("APP", APP_BLOCK_SECONDS)
            probes = "APP"
        elif state.outage_until is not None and not probing:
            if not api_budget.claim_outage_probe(conn, behalf):
                return ThrottleReason("OUTAGE", OUTAGE_PROBE_SECONDS)
            probes = "OUTAGE"
        if probes:
            self._this_thread.probes = probes
            self._may_close_outage = True
            self._this_thread.probing_until = self._monotonic() + PROBE_SECONDS
            self._probe_over = threading.Event()
            return self._ask(conn, priority, 1, probing=True)
        # Room has appeared since the first query: take again.
        return ThrottleReason("PACE", 0.0) if counted else math.inf

    def _look(self, priority: Priority) -> ThrottleReason | None:
        with self._engine.connect() as conn:
            throttled = throttle_reason(api_budget.read_state(conn), self._quota, priority)
        if throttled:
            self._refused[priority] = (self._monotonic(), throttled)
        return throttled

    def _is_probing(self) -> bool:
        """Whether this thread is the one that tries whether the app is still refused."""
        until: float = getattr(self._this_thread, "probing_until", -math.inf)
        return self._monotonic() < until

    def _end_probe(self) -> None:
        """Wakes the threads that wait for the probe: its result is in Postgres."""
        self._refused.clear()
        if self._is_probing():
            self._this_thread.probing_until = -math.inf
            self._probe_over.set()

    def _probe_awaited(self, throttled: ThrottleReason, probe_over: threading.Event) -> bool:
        """Waits for a probe of this process to end; True: ask again, False: there was none.

        Other threads would fail although the half-open probe is about to succeed.
        """
        if throttled.reason not in ("APP", "OUTAGE") or (
            probe_over is self._probe_over and probe_over.is_set()
        ):
            return False
        probe_over = self._probe_over
        probe_over.wait(PROBE_SECONDS)
        probe_over.set()
        return True

    def _use_permit(self, priority: Priority | None, calls: int = 1) -> bool:
        left, until = self._permits.get(priority, (0, 0.0))
        if left < 1 or self._monotonic() >= until:
            return False
        self._permits[priority] = (left - calls, until)
        return True

    def _remembered(self, priority: Priority | None) -> ThrottleReason | None:
        """The cached reason of the last throttled call, for at most a second."""
        if priority not in self._refused:
            return None
        seen_at, throttled = self._refused[priority]
        age = self._monotonic() - seen_at
        if age >= min(PERMIT_SECONDS, throttled.seconds):
            return None
        return ThrottleReason(throttled.reason, throttled.seconds - age)

    def _may_wait(self, throttled: ThrottleReason, now: float) -> bool:
        """Whether a call, and for a block the sync too, has the time to wait for this."""
        if throttled.reason == "OUTAGE":
            return False
        if throttled.seconds > LONGEST_WAIT_SECONDS:
            return False
        if throttled.reason == "PACE":
            return True
        growth = self._blocked.growth(now, throttled.seconds)
        return self._blocked.seconds + growth <= self._patience


def _refusal(throttled: ThrottleReason) -> SpotifyError:
    if throttled.reason == "APP":
        return AppBlocked(throttled.what_happened)
    if throttled.reason == "OUTAGE":
        return Outage(throttled.what_happened)
    reason: LimitReason = "QUOTA" if throttled.reason in ("QUOTA", "DAY") else "RATE"
    return RateLimited(math.ceil(throttled.seconds), reason, throttled.what_happened)
