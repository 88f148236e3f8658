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

# Somebody may be waiting for the sync: a hook that hangs costs them 7 s, one that is down less.
TIMEOUT_SECONDS = 2.0
PAUSES_SECONDS = (0.2, 0.8)

log = logging.getLogger(__name__)


def revalidate(pipeline: Pipeline, outcomes: Sequence[UserOutcome]) -> None:
    """Call the hook once for all these users and note for each whether the app was told.

    A hook that fails fails no sync, for the numbers are stored and only a cache is old; what went
    wrong is told as a remark on the step.
    """
    url, secret = pipeline.settings.revalidate_url, pipeline.settings.revalidate_secret
    rows = StepRows(total=0)
    if outcomes and url and secret:
        body = json.dumps({"user_ids": [outcome.user_id for outcome in outcomes]}).encode()
        timestamp = str(int(pipeline.now().timestamp()))
        signed = signature(secret.get_secret_value(), timestamp, body)
        complaint = _call(pipeline, url, body, timestamp, signed)
        told = int(complaint is None)
        rows = StepRows(total=told, new=told, remark=complaint)
    for outcome in outcomes:
        outcome.done[PROFILE_REVALIDATION] = rows


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """What the app computes again to check a call."""
    mac = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={mac.hexdigest()}"


def _call(pipeline: Pipeline, url: str, body: bytes, timestamp: str, signed: str) -> str | None:
    """Tell the app, up to three times. None: it was told; else why not."""
    for pause in (*PAUSES_SECONDS, None):
        complaint, may_pass = _post(url, body, timestamp, signed)
        if complaint is None or not may_pass or pause is None:
            break
        pipeline.sleep(pause)
    if complaint:
        log.warning("%s", complaint)
    return complaint


def _post(url: str, body: bytes, timestamp: str, signed: str) -> tuple[str | None, bool]:
    """One call: what went wrong, and whether another may go well."""
    try:
        # Streamed: what the app answers is of no interest, however long it is.
        with requests.post(
            url,
            data=body,
            headers={
                "Content-Type": "application/json",
                "X-Spotify-Pipeline-Timestamp": timestamp,
                "X-Spotify-Pipeline-Signature": signed,
            },
            timeout=TIMEOUT_SECONDS,
            allow_redirects=False,
            stream=True,
        ) as response:
            status = response.status_code
    except requests.RequestException as error:
        return f"The cache hook did not answer: {type(error).__name__}", True
    # A redirect is no success either: it is not followed, so nobody was told.
    if 200 <= status < 300:
        return None, False
    return f"The cache hook answered {status}", status >= 500 or status == 429
