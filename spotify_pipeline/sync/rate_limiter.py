"""The rate limiter of a process on the shared budget: when each call to Spotify may go out.

Each counted call is booked in Postgres when it goes out. So no booking is wasted, and a block that
another process wrote stops the very next call. Without limits Postgres is asked once a second.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from spotify_pipeline.domain.quota import (
    APP_BLOCK_SECONDS,
    OUTAGE_PROBE_SECONDS,
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
        # Until when calls that are not counted go out without asking, and why other calls wait;
        # both for a second at most.
        self._open_until: dict[Priority | None, float] = {}
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
                if self._is_probing() or self._is_open(priority):
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
            self._open_until.clear()
            self._end_probe()
            return self._may_wait(ThrottleReason(reason, seconds), self._monotonic())

    def answered(self, caller: int, *, accepted: bool) -> None:
        """See RateLimiter. After a probe all calls may go out again.

        Closes the circuit breaker, which it writes once a sync, and after failures.
        """
        self._in_flight.discard(threading.get_ident())
        self._answered.add(caller)
        if self._may_close_outage:
            with self._lock:
                with self._engine.connect() as conn:
                    api_budget.note_answered(conn)
                self._unanswered.clear()
                self._may_close_outage = False
                if getattr(self._this_thread, "probes", None) == "OUTAGE":
                    self._end_probe()
        if accepted and self._is_probing():
            with self._lock:
                with self._engine.connect() as conn:
                    api_budget.clear_block(conn, "APP")
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
                self._open_until.clear()
                self._refused.clear()
            if probing:
                self._end_probe()
            return not outage

    def _pass(self, priority: Priority | None) -> ThrottleReason | None:
        """None: the call may go out now. Else what holds it back."""
        with self._lock:
            probing = self._is_probing()
            if not probing:
                if self._is_open(priority):
                    return None
                if throttled := self._remembered(priority):
                    return throttled
            # From before the question: Postgres may admit the call long before its answer comes.
            until = self._monotonic() + PERMIT_SECONDS
            with self._engine.connect() as conn:
                throttled = self._ask(conn, priority, probing)
            if throttled:
                self._refused[priority] = (self._monotonic(), throttled)
                return throttled
            if self._is_probing():
                return None
            if priority is None or not self._quota.is_limited:
                self._open_until[priority] = until
            late = self._monotonic() >= until
            return ThrottleReason("PACE", PERMIT_SECONDS) if late else None

    def _ask(
        self, conn: Connection, priority: Priority | None, probing: bool
    ) -> ThrottleReason | None:
        """None: Postgres admits the call, perhaps as a probe. Else what holds it back."""
        # A token is refreshed for the call that `check` let pass.
        behalf: Priority | None = priority or getattr(self._this_thread, "priority", None)
        take = partial(api_budget.take, conn, self._quota, priority, on_behalf_of=behalf)
        throttled = take(probing=probing)
        if throttled is None or throttled.seconds:
            return throttled
        if throttled.reason == "APP":
            if not api_budget.claim_probe(conn):
                return ThrottleReason("APP", APP_BLOCK_SECONDS)
        elif not api_budget.claim_outage_probe(conn, behalf):
            return ThrottleReason("OUTAGE", OUTAGE_PROBE_SECONDS)
        self._this_thread.probes = throttled.reason
        self._may_close_outage = True
        self._this_thread.probing_until = self._monotonic() + PROBE_SECONDS
        self._probe_over = threading.Event()
        return take(probing=True)

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

    def _is_open(self, priority: Priority | None) -> bool:
        """Whether calls that are not counted were admitted in the last second."""
        return self._monotonic() < self._open_until.get(priority, -math.inf)

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
