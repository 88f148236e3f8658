"""Signed cookies: the session of a user, and the browser that began a sign-in; limits of sign-in.

A session holds the user's session key. The database changes the key at a disconnect and deletes it
with the user, which ends every session on the server, whatever cookies still exist.
"""

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from math import ceil
from threading import Lock
from urllib.parse import urlencode

from itsdangerous import BadData, URLSafeTimedSerializer
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from spotify_pipeline import app
from spotify_pipeline.terminal import is_visible

SESSION_SECONDS = 30 * 24 * 3600
SIGN_IN_SECONDS = 600
# Each attempt costs a call to Spotify with the app's secret. So many in SIGN_IN_SECONDS.
ATTEMPTS_PER_CLIENT, ATTEMPTS = 10, 200
MAX_CLIENTS = 10_000


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in user. `csrf` is the token that each of the user's forms carries."""

    user_id: str
    settings: app.UserSettings
    csrf: str

    @property
    def name(self) -> str:
        """What to call the user."""
        return shown_name(self.settings.display_name, self.user_id)


def shown_name(display_name: str | None, user_id: str) -> str:
    """The displayed name, or the id where a reader would see nothing of it."""
    return display_name if display_name and is_visible(display_name) else user_id


class Attempts:
    """Limits sign-ins that ask Spotify, per client and of all. Safe for threads.

    A client is an address, or of IPv6 its /64: a household's or server's network.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._all: deque[float] = deque(maxlen=ATTEMPTS)
        self._clients: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = Lock()

    def wait(self, address: str) -> int:
        """0, and the attempt counts; or in how many seconds the client may try again."""
        now, client = self._monotonic(), _network(address)
        with self._lock:
            mine = self._clients.setdefault(client, deque(maxlen=ATTEMPTS_PER_CLIENT))
            self._clients.move_to_end(client)
            if len(self._clients) > MAX_CLIENTS:
                self._clients.popitem(last=False)
            free_at = max(
                (times[0] + SIGN_IN_SECONDS for times in (mine, self._all) if _is_full(times)),
                default=now,
            )
            if free_at > now:
                return ceil(free_at - now)
            for times in (mine, self._all):
                times.append(now)
            return 0


def _is_full(times: deque[float]) -> bool:
    return len(times) == times.maxlen


def _network(address: str) -> str:
    """The client of an address with or without a port; "" of whatever is no address."""
    bare = address.strip()
    if found := re.fullmatch(r"\[([^]]*)\](?::[0-9]+)?|([0-9.]+):[0-9]+", bare):
        bare = found[1] or found[2]
    try:
        parsed = ip_address(bare.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped or ip_network((parsed, 64), strict=False))
    return str(parsed)


class Cookies:
    """Makes and reads the cookies. All are HttpOnly and SameSite=Lax, and Secure on https."""

    def __init__(self, secret: str, *, secure: bool) -> None:
        self._secret = secret.encode()
        self._secure = secure
        # The prefix stops other hosts of the domain from setting the cookie.
        prefix = "__Host-" if secure else ""
        self._session, self._browser = f"{prefix}session", f"{prefix}browser"
        self._sessions = URLSafeTimedSerializer(secret, salt="session")
        self._states = URLSafeTimedSerializer(secret, salt="state")

    def sign_in(self, response: Response, user_id: str, settings: app.UserSettings) -> None:
        """Start a session under a new, random identity; what the browser had before is replaced."""
        content = [user_id, str(settings.session_key), secrets.token_urlsafe(16)]
        self._set(response, self._session, str(self._sessions.dumps(content)), SESSION_SECONDS)
        response.delete_cookie(self._browser, secure=self._secure, httponly=True, samesite="lax")

    def sign_out(self, response: Response) -> None:
        """Delete the session's cookie."""
        response.delete_cookie(self._session, secure=self._secure, httponly=True, samesite="lax")

    def session(self, request: Request, conn: Connection) -> Session | None:
        """The session of a request, if the user's session key is still the cookie's."""
        try:
            content = self._sessions.loads(
                request.cookies.get(self._session, ""), max_age=SESSION_SECONDS
            )
            user_id, key, nonce = content
        except (BadData, ValueError, TypeError):
            return None
        settings = app.user_settings(conn, user_id)
        if settings is None or not hmac.compare_digest(str(settings.session_key), key):
            return None
        return Session(user_id, settings, self._mac("csrf", nonce))

    def browser(self, request: Request) -> str:
        """The random name of the browser that signs in: that of its cookie, or a new one."""
        return request.cookies.get(self._browser) or secrets.token_urlsafe(24)

    def remember_browser(self, response: Response, browser: str) -> None:
        """Set the cookie that binds a sign-in to this browser."""
        self._set(response, self._browser, browser, SIGN_IN_SECONDS)

    def new_state(self, browser: str) -> str:
        """A state for Spotify that only this browser can answer; each tab may have its own."""
        return str(self._states.dumps([self._mac("browser", browser), secrets.token_urlsafe(12)]))

    def owns_state(self, request: Request, state: str) -> bool:
        """Whether the state was made for this browser at most ten minutes ago."""
        browser = request.cookies.get(self._browser, "")
        try:
            owner, _ = self._states.loads(state, max_age=SIGN_IN_SECONDS)
        except (BadData, ValueError, TypeError):
            return False
        return bool(browser) and hmac.compare_digest(owner, self._mac("browser", browser))

    def code_verifier(self, state: str) -> str:
        """PKCE's verifier of a state; it never leaves the server before the code is redeemed."""
        return self._mac("verifier", state)

    def share_token(self, user_id: str, expires_at: str) -> str:
        """The token of the user's share link that expires then; only its SHA-256 is stored."""
        return self._mac("share", urlencode({"user": user_id, "until": expires_at}))

    def _mac(self, purpose: str, text: str) -> str:
        mac = hmac.digest(self._secret, f"{purpose}\0{text}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(mac).decode().rstrip("=")

    def _set(self, response: Response, name: str, value: str, seconds: int) -> None:
        response.set_cookie(
            name, value, max_age=seconds, httponly=True, samesite="lax", secure=self._secure
        )
