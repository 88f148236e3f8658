"""Requests and responses as plain data. Reprs show no secret and no body."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from spotify_pipeline.domain.quota import Priority


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """The base URL of a service, without a trailing slash: https, or http on loopback only."""

    text: str
    is_loopback: bool

    @classmethod
    def parse(cls, text: str) -> "BaseUrl":
        """The checked address; raises ValueError with one sentence that repeats no secret."""
        try:
            parts = urlsplit(text.strip())
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise ValueError("The address of a Spotify service has a bad host or port.") from None
        if parts.username is not None or parts.password is not None:
            raise ValueError("The address of a Spotify service must not hold a name or password.")
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise ValueError(
                "The address of a Spotify service must look like https://api.spotify.com."
            )
        is_loopback = _is_loopback(host)
        if parts.scheme == "http" and not is_loopback:
            raise ValueError(
                f"Refusing plain http to {host}: tokens are sent over https, "
                "or over http to 127.0.0.1 only."
            )
        where = f"[{host}]" if ":" in host else host
        where += "" if port is None else f":{port}"
        return cls(f"{parts.scheme}://{where}{parts.path.rstrip('/')}", is_loopback)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")


def is_token(text: object) -> bool:
    """Whether this can stand in an Authorization header: visible ASCII, so no CR LF injection."""
    return isinstance(text, str) and _VISIBLE_ASCII.fullmatch(text) is not None


def bearer(access_token: str) -> str:
    """The Authorization header's value; raises ValueError without repeating the token.

    Checked here because the HTTP library's own complaint would quote the header.
    """
    if not is_token(access_token):
        raise ValueError("The access token is not visible ASCII.")
    return f"Bearer {access_token}"


@dataclass(frozen=True, slots=True)
class Request:
    """One call. `endpoint` is its name in errors; `priority` None: Spotify does not count it."""

    endpoint: str
    method: Literal["GET", "POST"]
    base: BaseUrl
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = field(default=None, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    priority: Priority | None = None

    @property
    def caller(self) -> int:
        """Distinguishes the calls of one token from those of others, in this process."""
        return hash((self.authorization, (self.form or {}).get("refresh_token")))


@dataclass(frozen=True, slots=True)
class Response:
    """A 200 with its JSON object, or a 4xx with `payload` if it was one.

    `text` is the start of a 4xx body: it is matched against known sentences and never passed on.
    """

    status: int
    payload: Mapping[str, object] | None = field(default=None, repr=False)
    text: str = field(default="", repr=False)
