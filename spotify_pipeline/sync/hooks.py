"""One POST to an address that the operator gave: the app's cache hook, or the alert hook."""

from collections.abc import Mapping
from dataclasses import dataclass

import requests


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why nobody was told, in a sentence without the address, and whether another try may do."""

    sentence: str
    may_pass: bool


def post(
    hook: str, url: str, body: bytes, seconds: float, headers: Mapping[str, str] | None = None
) -> Complaint | None:
    """Send JSON once; None when it arrived. `hook` is what a complaint calls the other side."""
    try:
        # Streamed: what they answer is of no interest, however long it is.
        with requests.post(
            url,
            data=body,
            headers={"Content-Type": "application/json", **(headers or {})},
            timeout=seconds,
            allow_redirects=False,
            stream=True,
        ) as response:
            status = response.status_code
    except requests.RequestException as error:
        # The kind only: the words quote the address, which may hold a secret.
        return Complaint(f"{hook} did not answer: {type(error).__name__}", may_pass=True)
    # A redirect is no success either: it is not followed, so nobody was told.
    if 200 <= status < 300:
        return None
    return Complaint(f"{hook} answered {status}", may_pass=status >= 500 or status == 429)
