"""The door that every call to api.spotify.com passes: where a shared budget plugs in."""

from typing import Literal, Protocol

from spotify_pipeline.spotify.errors import LimitReason

# "request" is a person who pressed Sync and waits; part of the day's calls is kept for them.
Priority = Literal["request", "scheduled"]


class RateGate(Protocol):
    """Decides when a call may go out. Used by many threads at once."""

    def acquire(self, priority: Priority) -> None:
        """Returns when a call may go out; raises RateLimited or AppBlocked if that is too far off.

        It may sleep. The time slept here does not count against the call's own deadline.
        """
        ...

    def blocked(self, retry_after_seconds: int, reason: LimitReason) -> bool:
        """Takes note of a 429. True: the next `acquire` waits it out. False: the call gives up."""
        ...


class OpenGate:
    """No budget: every call goes out at once, and every 429 ends the call with RateLimited."""

    def acquire(self, priority: Priority) -> None:
        return None

    def blocked(self, retry_after_seconds: int, reason: LimitReason) -> bool:
        return False
