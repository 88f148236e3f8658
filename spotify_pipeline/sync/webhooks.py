"""POSTs to addresses that the operator gave: the app's cache hook, and the alert hook.

The body of the cache hook is `{"user_ids": […]}`. Its signature lets the app refuse forged and old
calls. It comes in two forms, each with the time of the call in Unix seconds:

- Standard Webhooks, which libraries of most languages verify: `webhook-id`, `webhook-timestamp` and
  `webhook-signature` (`v1,` and the base64 HMAC-SHA256 of id + "." + timestamp + "." + body).
- For a few lines of own code: `X-Spotify-Pipeline-Timestamp` and `X-Spotify-Pipeline-Signature`
  (`sha256=` and the hex HMAC-SHA256 of timestamp + "." + body).
"""

import hashlib
import hmac
import json
import logging
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

import requests
from urllib3.exceptions import HTTPError

from spotify_pipeline.domain.outcome import StepRows
from spotify_pipeline.settings import LOOPBACK, webhook_key
from spotify_pipeline.spotify.deadline_adapter import Deadline, DeadlineAdapter, keeping
from spotify_pipeline.sync.pipeline import Pipeline

# A user may be waiting for the sync: a hook that hangs costs them 7 s, one that is down less.
TIMEOUT_SECONDS = 2.0
PAUSES_SECONDS = (0.2, 0.8)

_FAILURES_THAT_MAY_PASS = (requests.RequestException, HTTPError, OSError)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why a POST failed, in a sentence without the address, and whether another try may succeed."""

    sentence: str
    may_pass: bool


def revalidate_profiles(pipeline: Pipeline, user_ids: Sequence[str]) -> StepRows:
    """Notify the app's cache hook, in one call, that these users have new results.

    Tries three times. A hook that fails fails no sync, for the numbers are stored and only a cache
    is old: the remark of the returned rows says what went wrong.
    """
    url, secret = pipeline.settings.revalidate_url, pipeline.settings.revalidate_secret
    if not (user_ids and url and secret):
        return StepRows(total=0)
    body = json.dumps({"user_ids": list(user_ids)}).encode()
    # The same for every try: an app may drop an id that it has seen.
    headers = signed_headers(
        secret.get_secret_value(), f"msg_{uuid4().hex}", int(pipeline.now().timestamp()), body
    )
    pauses = iter(PAUSES_SECONDS)
    while complaint := post("The cache hook", url, body, TIMEOUT_SECONDS, headers):
        pause = next(pauses, None)
        if not complaint.may_pass or pause is None:
            log.warning("%s", complaint.sentence)
            return StepRows(total=0, remark=complaint.sentence)
        pipeline.sleep(pause)
    return StepRows(total=1, new=1)


def signed_headers(secret: str, id_: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of a call, at `timestamp` (Unix seconds): what the app computes again."""
    key, seconds = webhook_key(secret), str(timestamp).encode()
    standard = hmac.digest(key, b".".join((id_.encode(), seconds, body)), "sha256")
    own = hmac.new(secret.encode(), seconds + b"." + body, hashlib.sha256)
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{b64encode(standard).decode()}",
        "X-Spotify-Pipeline-Timestamp": str(timestamp),
        "X-Spotify-Pipeline-Signature": f"sha256={own.hexdigest()}",
    }


def post(
    hook: str, url: str, body: bytes, seconds: float, headers: Mapping[str, str] | None = None
) -> Complaint | None:
    """Send JSON once, within `seconds` of wall-clock time; None when it arrived. Never raises.

    `hook` is what a complaint calls the other side.
    """
    try:
        with keeping(Deadline(time.monotonic, time.monotonic() + seconds)):
            status = _status(url, body, seconds, headers or {})
    except Exception as error:
        # The type only: the text quotes the address, which may hold a secret.
        may_pass = isinstance(error, _FAILURES_THAT_MAY_PASS)
        return Complaint(f"{hook} did not answer: {type(error).__name__}", may_pass)
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        # Not followed: the body is signed for this address only.
        return Complaint(f"{hook} answered {status}: set the address it redirects to", False)
    return Complaint(f"{hook} answered {status}", may_pass=status >= 500 or status == 429)


def _status(url: str, body: bytes, seconds: float, headers: Mapping[str, str]) -> int:
    """The status of the response. Uses the adapter alone: a Session parses every redirect."""
    prepared = requests.Request(
        "POST", url, headers={"Content-Type": "application/json", **headers}, data=body
    ).prepare()
    with requests.Session() as session:
        environment = session.merge_environment_settings(url, {}, True, None, None)
    is_loopback = urlsplit(url).hostname in LOOPBACK
    adapter = DeadlineAdapter(max_retries=0)
    try:
        # Streamed: the body of the response is not read, however long it is.
        with adapter.send(
            prepared,
            stream=True,
            timeout=seconds,
            verify=environment["verify"] or True,
            proxies={} if is_loopback else environment["proxies"],
        ) as response:
            return response.status_code
    finally:
        adapter.close()
