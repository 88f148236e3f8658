"""Seeded random values: generators, Spotify ids and invented names.

The same seed gives the same values on every machine. No name is meant to be a real artist's.
"""

from hashlib import blake2b
from random import Random

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def seeded(*parts: object) -> Random:
    """A random generator seeded with the parts."""
    return Random("/".join(map(str, parts)))  # noqa: S311  # synthetic plays, not secrets


def spotify_id(*parts: object) -> str:
    """22 characters of base 62, the form of Spotify's ids."""
    number = int.from_bytes(blake2b(repr(parts).encode(), digest_size=17).digest(), "big")
    digits = []
    for _ in range(22):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(digits)


def _words(text: str, separator: str | None = None) -> tuple[str, ...]:
    return tuple(text.split(separator))


_ADJECTIVES = _words(
    "Amber Ashen Borrowed Brittle Cobalt Crooked Distant Dusty Eastern Electric Feathered Folded "
    "Frosted Gilded Hollow Idle Inland Ivory Lesser Lilac Loose Lunar Marbled Midday Mild Muted "
    "Narrow Northern Ochre Opal Painted Pale Patient Plaid Quiet Restless Rusted Salted Second "
    "Seventh Sleepy Slow Solar Spare Sunken Tender Thin Tidal Upper Velour Wandering Wooden"
)
_NOUNS = _words(
    "Awning Almanac Antler Anvil Balloon Barometer Beacon Bramble Canal Carousel Cartographer "
    "Cedar Chandelier Cabin Cormorant Delta Dynamo Ember Inlet Foghorn Fjord Gazette Glacier "
    "Harbour Heron Igloo Islet Juniper Kestrel Kettle Lagoon Lantern Ledger Lighthouse Magpie "
    "Meridian Mosaic Nectarine Obelisk Orchard Otter Pavilion Pendulum Pigeon Plover Quilt "
    "Quince Raft Sextant Signal Spindle Staircase Teapot Thicket Tramway Tundra Umbrella Viaduct "
    "Wagon Weathervane Willow Zeppelin"
)
_ONSETS = _words("b br c d dr f g h j k l m n p r s sh st t th v w y z")
_VOWELS = _words("a a a e e i i o o u ia é ö ū")
_CODAS = ("", "", "", "l", "n", "r", "s", "ck", "m")
_TRACK_FORMS = (
    "{a} {n}",
    "The {n}",
    "{n}",
    "{n} in {place}",
    "Letters to {place}",
    "{a} Hours",
    "When the {n} Sleeps",
    "No More {n}s",
    "{number} {n}s",
    "{n} / {n2}",
    "Leaving {place}",
    "Your {a} {n}",
    "{a} (Interlude)",
    "{n} - Live in {place}",
    "{a} {n} - Remastered",
)
GENRES = _words(
    "ambient, art pop, bedroom pop, bossa nova, chamber pop, city pop, cumbia, dancehall, "
    "deep house, disco, downtempo, dream pop, drum and bass, dub, electropop, flamenco, folk, "
    "funk, garage rock, grime, hip hop, indie folk, indie rock, jazz, k-indie, krautrock, "
    "lo-fi beats, mandopop, math rock, metal, minimal techno, neo soul, opera, piano, "
    "post-punk, power pop, progressive rock, r&b, reggae, samba, shoegaze, ska, synthwave, trap",
    ", ",
)


def invented_word(rng: Random) -> str:
    """One pronounceable word of two or three syllables, capitalised."""
    syllables = (rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((2, 2, 3))))
    return ("".join(syllables) + rng.choice(_CODAS)).capitalize()


def artist_name(rng: Random) -> str:
    """The name of a band, a duo or a soloist."""
    adjective, noun, word = rng.choice(_ADJECTIVES), rng.choice(_NOUNS), invented_word(rng)
    forms = (
        f"The {adjective} {noun}s",
        f"{adjective} {noun}",
        f"{word} {invented_word(rng)}",
        f"{word} & the {noun}s",
        f"{word} {noun}",
        word,
    )
    return rng.choice(forms)


def title(rng: Random) -> str:
    """An album or track title."""
    return rng.choice(_TRACK_FORMS).format(
        a=rng.choice(_ADJECTIVES),
        n=rng.choice(_NOUNS),
        n2=rng.choice(_NOUNS),
        place=invented_word(rng),
        number=rng.choice(("Two", "Three", "Seven", "Nine", "Forty", "A Hundred")),
    )
