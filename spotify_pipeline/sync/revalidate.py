"""Tells the app's cache about users with new results.

The body is `{"user_ids": […]}`. The headers `X-Spotify-Pipeline-Timestamp` (Unix seconds) and
`X-Spotify-Pipeline-Signature` (`sha256=` and the hex HMAC-SHA256 of timestamp + "." + body under
the shared secret) let the app refuse forged and old calls.
"""

import hashlib
import hmac
import json
import logging
from collections.abc import Sequence

import requests

from spotify_pipeline.domain.steps import PROFILE_REVALIDATION
from spotify_pipeline.sync.outcome import StepRows, UserOutcome
from spotify_pipeline.sync.pipeline import Pipeline

TIMEOUT_SECONDS = 5

log = logging.getLogger(__name__)


def revalidate(pipeline: Pipeline, outcomes: Sequence[UserOutcome]) -> None:
    """Call the hook once for all these users and note the step as done for each.

    A hook that fails is logged and fails no sync: the numbers are stored, only a cache is old.
    """
    url, secret = pipeline.settings.revalidate_url, pipeline.settings.revalidate_secret
    called = False
    if outcomes and url and secret:
        body = json.dumps({"user_ids": [outcome.user_id for outcome in outcomes]}).encode()
        timestamp = str(int(pipeline.now().timestamp()))
        called = _post(url, body, timestamp, signature(secret.get_secret_value(), timestamp, body))
    for outcome in outcomes:
        outcome.done[PROFILE_REVALIDATION] = StepRows(total=int(called))


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """What the app computes again to check a call."""
    mac = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={mac.hexdigest()}"


def _post(url: str, body: bytes, timestamp: str, signed: str) -> bool:
    try:
        response = requests.post(
            url,
            data=body,
            headers={
                "Content-Type": "application/json",
                "X-Spotify-Pipeline-Timestamp": timestamp,
                "X-Spotify-Pipeline-Signature": signed,
            },
            timeout=TIMEOUT_SECONDS,
            allow_redirects=False,
        )
    except requests.RequestException as error:
        log.warning("The cache hook did not answer: %s", type(error).__name__)
        return False
    # A redirect is no success either: it is not followed, so nobody was told.
    told = 200 <= response.status_code < 300
    if not told:
        log.warning("The cache hook answered %d", response.status_code)
    return told
