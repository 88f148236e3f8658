"""Delivers outcomes: to the app's webhook, to Dagster, and to the requests that asked for the sync.

In this order, because an answered request is never looked at again: a process that dies before the
answer leaves a request that is open, and the next attempt delivers again what it finds stored.
"""

import hashlib
import hmac
import json
import logging
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

import requests
from urllib3.exceptions import HTTPError

from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.domain.outcome import (
    DAILY_LISTENING,
    MUSIC_PERSONALITY,
    PROFILE_REVALIDATION,
    RECENTLY_PLAYED,
    STEPS,
    TOP_ARTISTS,
    TOP_TRACKS,
    StepRows,
    UserOutcome,
    still_possible,
)
from spotify_pipeline.settings import LOOPBACK, webhook_key
from spotify_pipeline.spotify.deadline_adapter import Deadline, DeadlineAdapter, keeping
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.counters import read_counts
from spotify_pipeline.storage.listening.top_lists import count_ranks
from spotify_pipeline.storage.work import sync_requests
from spotify_pipeline.storage.work.sync_requests import Failure
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.rate_limiter import LONGEST_WAIT_SECONDS

# Writes outcomes as materializations into Dagster's event log.
Emit = Callable[[Sequence[UserOutcome]], None]

REPLAYED = "An earlier sync stored this, and may have died before it reported what was new."

# The whole developer app may make no calls now: the user did nothing wrong.
HELD_BACK = (ErrorCode.RATE_LIMITED, ErrorCode.QUOTA_EXCEEDED, ErrorCode.APP_BLOCKED)

# Transient: the request is tried again. Every other failure needs the user or the operator, but
# INTERNAL, our own error: it is not repeated, and only lengthens the user's wait (requests.sql).
TRANSIENT = (
    ErrorCode.SPOTIFY_UNAVAILABLE,
    ErrorCode.BAD_RESPONSE,
    ErrorCode.CRASHED,
    ErrorCode.RATE_LIMITED,
    ErrorCode.QUOTA_EXCEEDED,
)

# A user may be waiting for the sync: a hook that hangs costs them 7 s, one that is down less.
TIMEOUT_SECONDS = 2.0
PAUSES_SECONDS = (0.2, 0.8)

_FAILURES_THAT_MAY_PASS = (requests.RequestException, HTTPError, OSError)

log = logging.getLogger(__name__)


def deliver(
    pipeline: Pipeline,
    outcomes: Sequence[UserOutcome],
    steps: Sequence[str] = STEPS,
    *,
    scheduled: bool = False,
    retried: bool = False,
    emit: Emit | None = None,
    dispatch_key: str | None = None,
) -> None:
    """Notify the app, emit to Dagster, answer the requests under `dispatch_key`, in this order.

    `scheduled`: no user waits for it, so the app is notified of changes only. `retried`: an earlier
    process may have stored this and died before it delivered it, so all that is stored counts as
    changed. Requests of skipped users stay open.
    """
    if retried:
        _replay(pipeline, outcomes, steps)
    if PROFILE_REVALIDATION in steps:
        concerned = [outcome for outcome in outcomes if _concerns_app(outcome, scheduled)]
        rows = revalidate_profiles(pipeline, [outcome.user_id for outcome in concerned])
        for outcome in concerned:
            outcome.done[PROFILE_REVALIDATION] = rows
    if emit:
        emit(outcomes)
    if dispatch_key:
        answered = [outcome for outcome in outcomes if not outcome.skipped]
        _answer(pipeline, dispatch_key, answered)


def _concerns_app(outcome: UserOutcome, scheduled: bool) -> bool:
    """Whether the app may show something new: when a user asked, at least that it was done."""
    if outcome.gone:
        return False
    if scheduled:
        return bool(outcome.changes)
    return bool(outcome.done) or outcome.result == "synced"


def _replay(pipeline: Pipeline, outcomes: Sequence[UserOutcome], steps: Sequence[str]) -> None:
    """Count as changed all that is stored of these users, also by an earlier sync that died.

    How much of it was new is not known any more.
    """
    existing = [outcome for outcome in outcomes if not outcome.gone]
    user_ids = [outcome.user_id for outcome in existing]
    with pipeline.engine.connect() as conn:
        counts = read_counts(conn, user_ids)
        artists = count_ranks(conn, t.top_list_artists, user_ids)
        tracks = count_ranks(conn, t.top_list_tracks, user_ids)
    for outcome in existing:
        user_id = outcome.user_id
        if outcome.skipped and not counts[user_id].plays:
            continue  # was never synced
        stored = {
            RECENTLY_PLAYED: counts[user_id].plays,
            **{step: artists.get((user_id, of), 0) for step, of in TOP_ARTISTS.items()},
            **{step: tracks.get((user_id, of), 0) for step, of in TOP_TRACKS.items()},
            DAILY_LISTENING: counts[user_id].days,
            MUSIC_PERSONALITY: 1,
        }
        possible = still_possible(outcome.failures, steps)
        outcome.retried = True
        outcome.done |= {
            step: StepRows(total, remark=REPLAYED)
            for step, total in stored.items()
            if step in possible and step not in outcome.done
        }


def _answer(pipeline: Pipeline, dispatch_key: str, outcomes: Sequence[UserOutcome]) -> None:
    """Write into the requests what these outcomes mean for them.

    In a transaction per distinct failure: one over all would lock users out of order (deadlock).
    """
    waiting = _held_back(pipeline, outcomes)
    failures: dict[Failure | None, list[str]] = {}
    for outcome in outcomes:
        if outcome.user_id not in waiting:
            failures.setdefault(_failure(outcome), []).append(outcome.user_id)
    if waiting:
        with pipeline.engine.begin() as conn:
            sync_requests.put_back(conn, dispatch_key, waiting)
    for failure, user_ids in failures.items():
        with pipeline.engine.begin() as conn:
            if failure and failure[0] in TRANSIENT:
                sync_requests.retry(conn, dispatch_key, failure, user_ids)
            else:
                sync_requests.finish(conn, dispatch_key, failure, user_ids)


def _held_back(pipeline: Pipeline, outcomes: Sequence[UserOutcome]) -> set[str]:
    """The users who were not synced because no call can be made now, nor soon."""
    refused = {outcome.user_id for outcome in outcomes if outcome.error_code in HELD_BACK}
    closed = pipeline.rate_limiter.closed_to("request") if refused else None
    # Waited out a short block and failed: counts as an attempt.
    return refused if closed and closed.seconds > LONGEST_WAIT_SECONDS else set()


def _failure(outcome: UserOutcome) -> Failure | None:
    """The failure that stands for the request: a permanent one before a transient one."""
    failures = list(outcome.failures.values())
    if not failures:
        return None
    first = next((failure for failure in failures if failure.code not in TRANSIENT), failures[0])
    return first.code, first.what_to_do or WHAT_TO_DO[first.code]


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
