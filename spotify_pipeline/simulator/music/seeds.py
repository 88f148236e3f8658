"""Everything random here comes from a seed: the same parts give the same numbers, anywhere."""

from hashlib import blake2b
from random import Random

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def seeded(*parts: object) -> Random:
    """A generator of its own for whatever the parts name."""
    return Random("/".join(map(str, parts)))  # noqa: S311  # synthetic plays, not secrets


def spotify_id(*parts: object) -> str:
    """22 characters of base 62, the form of Spotify's ids."""
    number = int.from_bytes(blake2b(repr(parts).encode(), digest_size=17).digest(), "big")
    digits = []
    for _ in range(22):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(digits)
