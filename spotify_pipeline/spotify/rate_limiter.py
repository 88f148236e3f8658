"""The protocol of the rate limiter that admits every call to Spotify."""

from typing import Protocol

from spotify_pipeline.domain.quota import BlockReason, Priority


class RateLimiter(Protocol):
    """Decides when a call may go out. Used by many threads at once."""

    def acquire(self, priority: Priority | None) -> None:
        """Returns when a call may go out; raises RateLimited, AppBlocked or Outage if that is too
        far off.

        A priority of None is a call that Spotify does not count: it is held back only while
        everything is. It may sleep. The time slept here does not count against the call's own
        deadline.
        """
        ...

    def blocked(self, seconds: int, reason: BlockReason) -> bool:
        """Records a block of all calls for so long: after a 429, or a refusal of the app.

        True: the next `acquire` waits it out. False: the call gives up.
        """
        ...

    def answered(self, caller: int, *, accepted: bool) -> None:
        """Takes note that the Web API answered this user: there is no outage.

        `accepted`: it did what it was asked for, so it does not refuse the app.
        """
        ...

    def unanswered(self, caller: int) -> bool:
        """Takes note of a try that got no answer, for the user with this number.

        False: in an outage, so the call is not tried again.
        """
        ...


class NoRateLimit:
    """No budget: every call goes out at once, and every 429 ends the call with RateLimited."""

    def acquire(self, priority: Priority | None) -> None:
        return None

    def blocked(self, seconds: int, reason: BlockReason) -> bool:
        return False

    def answered(self, caller: int, *, accepted: bool) -> None:
        return None

    def unanswered(self, caller: int) -> bool:
        return True
