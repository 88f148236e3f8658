"""Vectorized metrics: values for many users, with the conditions under which they are known.

Users are positions 0 to n - 1 throughout; an array "per user" has n entries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spotify_pipeline.domain.listening.frames import Bools, Integers

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Condition:
    """`met` per user, and for a user who does not meet it the `reason` as text."""

    met: Bools
    reason: Callable[[int], str]


@dataclass(frozen=True)
class Score:
    """A value per user (floats, integers or texts), known if all conditions are met."""

    values: npt.NDArray[Any]
    conditions: tuple[Condition, ...] = ()

    def known(self) -> Bools:
        """Whether each user meets all conditions."""
        met = np.ones(len(self.values), dtype=np.bool_)
        for condition in self.conditions:
            met &= condition.met
        return met

    def why_not(self, user: int) -> str:
        """The reason of the first unmet condition of this user."""
        return next(
            condition.reason(user) for condition in self.conditions if not condition.met[user]
        )


def at_least(needed: int, what: str, has: Integers) -> Condition:
    """`needs 50 plays, has 12`."""
    return Condition(has >= needed, lambda user: f"needs {needed} {what}, has {has[user]}")


def count(users: int, user: Integers) -> Integers:
    """The number of entries per user."""
    return np.bincount(user, minlength=users).astype(np.int64)


def total(users: int, user: Integers, amounts: npt.ArrayLike) -> Floats:
    """The sum of the amounts per user, added in row order.

    bincount adds one by one, so a sum is the same to the last bit whatever the other users.
    """
    weights = np.asarray(amounts, dtype=np.float64)
    return np.bincount(user, weights=weights, minlength=users).astype(np.float64)


def ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> Floats:
    """part / whole per user; 0 where the whole is 0, which a condition has to exclude."""
    parts, wholes = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(parts, wholes, out=np.zeros_like(parts), where=wholes != 0)


def entropy(users: int, user: Integers, counts: Integers) -> Floats:
    """Shannon entropy per user, H = -Σ p ln p (in nats), p = count / sum of the user's counts."""
    shares = ratio(counts, total(users, user, counts)[user])
    return -total(users, user, shares * np.log(shares))


def evenness(entropies: Floats, kinds: Integers) -> Floats:
    """Pielou's evenness H / ln K, from 0 to 1; 0 for a single kind."""
    return np.clip(ratio(entropies, np.log(np.maximum(kinds, 1))), 0, 1)
