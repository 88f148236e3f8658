"""One POST to an address that the operator gave: the app's cache hook, or the alert hook."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from spotify_pipeline.settings import LOOPBACK
from spotify_pipeline.spotify.deadline_adapter import Deadline, DeadlineAdapter, keeping

_FAILURES_THAT_MAY_PASS = (requests.RequestException, HTTPError, OSError)


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why nobody was told, in a sentence without the address, and whether another try may do."""

    sentence: str
    may_pass: bool


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
        # The kind only: the words quote the address, which may hold a secret.
        may_pass = isinstance(error, _FAILURES_THAT_MAY_PASS)
        return Complaint(f"{hook} did not answer: {type(error).__name__}", may_pass)
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        # Not followed: the body is signed for this address, and the other may be anywhere.
        return Complaint(f"{hook} answered {status}: set the address it redirects to", False)
    return Complaint(f"{hook} answered {status}", may_pass=status >= 500 or status == 429)


def _status(url: str, body: bytes, seconds: float, headers: Mapping[str, str]) -> int:
    """The status of the answer. The pool is used and no Session, which parses every redirect."""
    prepared = requests.Request(
        "POST", url, headers={"Content-Type": "application/json", **headers}, data=body
    ).prepare()
    with requests.Session() as session:
        environment = session.merge_environment_settings(url, {}, True, None, None)
    is_loopback = urlsplit(url).hostname in LOOPBACK
    adapter = DeadlineAdapter(max_retries=0)
    try:
        # Streamed: what they answer is of no interest, however long it is.
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
