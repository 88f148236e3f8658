"""The listener on 127.0.0.1 to which Spotify sends the browser back, for one answer.

It writes no log: the addresses it is asked for contain the code.
"""

import errno
import html
import queue
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from spotify_pipeline.errors import UsageError

HOST = "127.0.0.1"
PATH = "/callback"
# A browser opens connections in advance and says nothing on them.
_SILENT_SECONDS = 10.0
# The page waits for the outcome: two calls to Spotify of 30 s, and Postgres.
_OUTCOME_SECONDS = 120.0
_PAGE_SECONDS = 5.0

STRANGER = (
    "This answer does not belong to the connection that is waiting for one (its state is another). "
    "Open the address that the command printed last."
)
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body{{font:18px/1.5 system-ui,sans-serif;max-width:32em;margin:15vh auto;padding:0 1em}}
</style>
<h1>{title}</h1><p>{sentence}</p></html>
"""


def redirect_uri(port: int) -> str:
    """The redirect URI that must be registered at Spotify, exactly."""
    return f"http://{HOST}:{port}{PATH}"


class CallbackListener:
    """Waits for the first request whose query `owns` accepts; all others are refused.

    Raises UsageError if the port cannot be used. `stranger` is called for each answer that is not
    accepted: it does not end the wait, or any web page could end it.
    """

    def __init__(
        self, port: int, owns: Callable[[str], bool], stranger: Callable[[], None]
    ) -> None:
        self._owns = owns
        self._stranger = stranger
        self._port = port
        self._lock = threading.Lock()
        self._answered = False
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._shown = threading.Event()
        listener = self

        class Handler(_Handler):
            def page(self) -> tuple[HTTPStatus, str, str]:
                return listener._page(self.path, self.headers.get_all("Host") or [])

            def shown(self, status: HTTPStatus) -> None:
                if status is HTTPStatus.OK:
                    listener._shown.set()

        try:
            self._server = ThreadingHTTPServer((HOST, port), Handler)
        except OSError as error:
            raise _cannot_listen(port, error) from None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait(self, seconds: float) -> str | None:
        """The query of the answer; None if none came in time. The browser waits for `show`."""
        try:
            return self._answers.get(timeout=seconds)
        except queue.Empty:
            return None

    def show(self, title: str, sentence: str) -> None:
        """Shows the outcome in the browser; returns when the page was sent."""
        self._outcomes.put((title, sentence))
        self._shown.wait(_PAGE_SECONDS)

    def _page(self, target: str, hosts: list[str]) -> tuple[HTTPStatus, str, str]:
        path, _, query = target.partition("?")
        # DNS rebinding: a foreign page whose name resolves to 127.0.0.1 sends its own Host.
        if hosts != [f"{HOST}:{self._port}"]:
            return HTTPStatus.MISDIRECTED_REQUEST, "Not here", "This address is not served."
        if path != PATH:
            return HTTPStatus.NOT_FOUND, "Not found", "There is nothing here."
        if not self._owns(query):
            self._stranger()
            return HTTPStatus.BAD_REQUEST, "Not connected", STRANGER
        with self._lock:
            if self._answered:
                return HTTPStatus.CONFLICT, "Already answered", "Look at the first page."
            self._answered = True
        self._answers.put(query)
        try:
            return HTTPStatus.OK, *self._outcomes.get(timeout=_OUTCOME_SECONDS)
        except queue.Empty:
            return HTTPStatus.GATEWAY_TIMEOUT, "Still at it", "The terminal shows the outcome."


class _Handler(BaseHTTPRequestHandler):
    timeout = _SILENT_SECONDS
    server_version = "spotify_pipeline"
    sys_version = ""
    error_message_format = "%(code)d\n"

    def page(self) -> tuple[HTTPStatus, str, str]:
        """Status, title and sentence for this request."""
        raise NotImplementedError

    def shown(self, status: HTTPStatus) -> None:
        """The page has been sent."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """A page, always."""
        status, title, sentence = self.page()
        body = _PAGE.format(title=html.escape(title), sentence=html.escape(sentence)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        # The address bar holds the code: no cache may keep it, no Referer may send it.
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
        self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        self.shown(status)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def _cannot_listen(port: int, error: OSError) -> UsageError:
    why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
    return UsageError(
        f"Port {port} {why}: end what uses it, or choose another with --port and register "
        "http://127.0.0.1:PORT/callback with that port in the Spotify developer dashboard."
    )
