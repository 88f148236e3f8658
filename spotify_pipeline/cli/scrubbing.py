"""Removes secrets from text: the second net under messages that should contain none.

Known values (the secrets in the environment, the token that was read) and known forms (passwords
in URLs, bearer tokens, sealed-box keys, Spotify's tokens) become asterisks.
"""

import os
import re
from collections.abc import Iterator
from urllib.parse import unquote

MASK = "***"

# The environment variables that are secret or contain a secret.
_SECRET_VARIABLES = (
    "SPOTIFY_PIPELINE_DATABASE_URL",
    "DAGSTER_PG_URL",
    "SPOTIFY_CLIENT_SECRET",
    "SPOTIFY_PIPELINE_TOKEN_KEYS",
    "SPOTIFY_PIPELINE_REVALIDATE_SECRET",
)
_URL_PASSWORD = re.compile(r"(?<=://)([^\s:/@]*):(\S*)@")
_FORMS = (
    re.compile(r"(?<=[Bb]earer )\S+"),
    # 32 bytes in base64, as a token key is written.
    re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{43}="),
    # Spotify's tokens, and whatever else is long and random.
    re.compile(r"\b(?=[\w-]*\d)(?=[\w-]*[A-Z])(?=[\w-]*[a-z])[\w-]{40,}"),
)
_remembered: set[str] = set()


def remember(secret: str) -> None:
    """This text must not appear in any message of this process."""
    _remembered.add(secret)


def scrub(text: str) -> str:
    """The text without secrets."""
    for secret in sorted(_known(), key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
    for form in _FORMS:
        text = form.sub(MASK, text)
    return text


def _known() -> set[str]:
    secrets = {part for name in _SECRET_VARIABLES for part in _parts(os.environ.get(name, ""))}
    # Shorter ones are no secrets, and would tear holes into every sentence.
    return {secret for secret in secrets | _remembered if len(secret) >= 3}


def _parts(value: str) -> Iterator[str]:
    """What of a variable's value is secret: all of it, a URL's password, each of several keys."""
    yield value
    if match := _URL_PASSWORD.search(value):
        yield match[2]
        yield unquote(match[2])
    for entry in re.split(r"[,\n]", value):
        yield entry.partition(":")[2].strip() if ":" in entry and "://" not in entry else ""
