"""Removes secrets from text: the second net under messages that should contain none.

Known values (the secrets in the environment, those that were remembered) and known forms (passwords
in URLs, Authorization headers, codes, sealed-box keys, Spotify's tokens) become asterisks. The
commands ask for it; `install` puts it under every log line and every last word of a process.
"""

import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any
from urllib.parse import unquote

MASK = "***"

# The environment variables that are secret or contain a secret.
_SECRET_VARIABLES = (
    "SPOTIFY_PIPELINE_DATABASE_URL",
    "DAGSTER_PG_URL",
    "SPOTIFY_CLIENT_SECRET",
    "SPOTIFY_PIPELINE_TOKEN_KEYS",
    "SPOTIFY_PIPELINE_REVALIDATE_SECRET",
    "SPOTIFY_PIPELINE_ALERT_URL",
    "SPOTIFY_PIPELINE_BROKER_URL",
    "SPOTIFY_PIPELINE_WEB_DATABASE_URL",
    "SPOTIFY_PIPELINE_WEB_SECRET",
)
# Addresses that are secrets themselves: HTTP libraries log what follows the host.
_SECRET_ADDRESSES = ("SPOTIFY_PIPELINE_ALERT_URL",)
_HOST = re.compile(r"^\w+://[^/?]*")
_URL_PASSWORD = re.compile(r"(?<=://)([^\s:/@]*):(\S*)@")
_FORMS = (
    re.compile(r"(?<=[Bb]earer )\S+"),
    re.compile(r"(?<=[Bb]asic )[A-Za-z0-9+/]{24,}=*"),
    # OAuth parameters in forms and addresses.
    re.compile(r"(?<=\bcode=)[\w.~%-]{30,}"),
    re.compile(r"(?<=(?:token|ecret|ifier)=)[\w.~%+/-]{8,}"),
    # 32 bytes in base64, as a token key is written.
    re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{43}="),
    # Spotify's tokens, and whatever else is long and random.
    re.compile(r"\b(?=[\w-]*\d)(?=[\w-]*[A-Z])(?=[\w-]*[a-z])[\w-]{40,}"),
)
_remembered: set[str] = set()


def remember(secret: str) -> None:
    """This text must not appear in any message of this process."""
    _remembered.add(secret)


def redact(text: str) -> str:
    """The text without secrets."""
    for secret in sorted(_known(), key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
    for form in _FORMS:
        text = form.sub(MASK, text)
    return text


def _known() -> set[str]:
    secrets = {part for name in _SECRET_VARIABLES for part in _parts(os.environ.get(name, ""))}
    for name in _SECRET_ADDRESSES:
        secrets.add(_HOST.sub("", os.environ.get(name, "")))
    # Shorter ones are no secrets, and would tear holes into every sentence.
    return {secret for secret in secrets | _remembered if len(secret) >= 3}


def _parts(value: str) -> Iterator[str]:
    """The secret parts of a variable's value: all of it, a URL's password, each of several keys."""
    yield value
    if match := _URL_PASSWORD.search(value):
        yield match[2]
        yield unquote(match[2])
    for entry in re.split(r"[,\n]", value):
        yield entry.partition(":")[2].strip() if ":" in entry and "://" not in entry else ""


def install() -> None:
    """Scrub every log record of this process, of any logger, and what an uncaught error prints.

    Below all handlers, because who adds one must not have to think of it. Safe to repeat.
    """
    if isinstance(logging.getLogRecordFactory(), _Scrubbed):
        return
    logging.setLogRecordFactory(_Scrubbed(logging.getLogRecordFactory()))
    sys.excepthook = _print_redacted
    threading.excepthook = lambda failed: _print_redacted(
        failed.exc_type, failed.exc_value, failed.exc_traceback
    )


class _Scrubbed:
    """A factory of log records without secrets."""

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *args: Any, **options: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._make(*args, **options)
        try:
            said = record.getMessage()
        except Exception:
            # Logging would complain on stderr, with the arguments as they are.
            said = f"{record.msg} (its arguments do not fit)"
            record.msg, record.args = redact(said), None
        if (clean := redact(said)) != said:
            record.msg, record.args = clean, None
        if record.exc_info and record.exc_info[0] is not None:
            # Formatters take the text that is there, before they make one.
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return record


def _print_redacted(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    if not issubclass(kind, (SystemExit, KeyboardInterrupt)):
        print(redact("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr)
