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

from spotify_pipeline.domain.steps import PROFILE_REVALIDATION
from spotify_pipeline.sync.outcome import StepRows, UserOutcome
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.webhooks import post

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
    headers = {"X-Spotify-Pipeline-Timestamp": timestamp, "X-Spotify-Pipeline-Signature": signed}
    pauses = iter(PAUSES_SECONDS)
    while complaint := post("The cache hook", url, body, TIMEOUT_SECONDS, headers):
        pause = next(pauses, None)
        if not complaint.may_pass or pause is None:
            log.warning("%s", complaint.sentence)
            return complaint.sentence
        pipeline.sleep(pause)
    return None
