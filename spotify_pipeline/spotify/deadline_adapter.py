"""Connections that keep a wall-clock deadline from the name look-up to the last byte.

The time-outs of requests and urllib3 hold per read: a server that sends one byte every few seconds,
in the headers or in the body, keeps a call alive for ever (19.5 s were measured against a
time-out of 3 s). Here each read may take no longer than what is left of the whole call.
"""

import io
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ProtocolError
from urllib3.util.connection import create_connection


@dataclass(frozen=True, slots=True)
class Deadline:
    """An instant of a monotonic clock."""

    clock: Callable[[], float]
    at: float

    def within(self, seconds: float | None) -> float:
        """At most `seconds` and at most what is left; raises TimeoutError when nothing is."""
        left = self.at - self.clock()
        if left <= 0:
            raise TimeoutError("the deadline of the call has passed")
        return left if seconds is None else min(seconds, left)


# A call runs in one thread from beginning to end, so the connection finds its deadline here.
_deadline: ContextVar[Deadline] = ContextVar("deadline")


@contextmanager
def keeping(deadline: Deadline) -> Iterator[None]:
    """Holds every connect and read of this thread to the deadline."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


class _DeadlineReader(io.RawIOBase):
    """Reads a socket, each time with the lesser of its time-out and the time left."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw
        self._seconds = sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        seconds = _deadline.get().within(self._seconds)
        if seconds != self._sock.gettimeout():  # setting it is a system call
            self._sock.settimeout(seconds)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


# Most responses fit. Each further read would be a system call that gives up the GIL.
_BUFFER_BYTES = 64 * 1024


class _DeadlineResponse(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_DeadlineReader(sock, self.fp.detach()), _BUFFER_BYTES)

    def begin(self) -> None:
        """Reads the head; raises HTTPException if part of it is no header.

        What follows such a line (the length of the body, say) would be lost, and urllib3 would log
        the unread rest, tokens included, as a warning.
        """
        super().begin()
        if self.msg.defects or self.msg.get_payload():
            raise HTTPException("malformed headers")


class _DeadlineDialing(HTTPConnection):
    """Opens the socket; the same for http and https, whose handshake follows on it."""

    response_class = _DeadlineResponse
    # Set here, because http.client's class attribute, once set, prints every Authorization header.
    debuglevel = 0

    def _new_conn(self) -> socket.socket:
        deadline = _deadline.get()
        seconds = self.timeout if isinstance(self.timeout, int | float) else None
        failure: OSError = OSError("the name has no address")
        for address in _addresses(self._dns_host, self.port, deadline.within(seconds)):
            try:
                sock = create_connection(
                    (address, self.port),
                    deadline.within(seconds),
                    source_address=self.source_address,
                    socket_options=self.socket_options,
                )
            except OSError as error:
                failure = error
            else:
                sock.settimeout(deadline.within(seconds))  # for the TLS handshake
                return sock
        raise failure


class _DeadlineHTTPSConnection(_DeadlineDialing, HTTPSConnection):
    pass


class _DeadlineHTTPPool(HTTPConnectionPool):
    ConnectionCls = _DeadlineDialing

    def urlopen(self, *args: Any, **kwargs: Any) -> Any:
        """Sends as urllib3 does; a connection that was reset at once is a ProtocolError too."""
        try:
            return super().urlopen(*args, **kwargs)
        except AttributeError:
            # urllib3 asks the socket for its time-out, and there is no socket any more.
            raise ProtocolError("the connection was reset while the request was sent") from None


class _DeadlineHTTPSPool(_DeadlineHTTPPool, HTTPSConnectionPool):
    ConnectionCls = _DeadlineHTTPSConnection


_POOLS = {"http": _DeadlineHTTPPool, "https": _DeadlineHTTPSPool}


class DeadlineAdapter(HTTPAdapter):
    """The pool of connections of requests, with connections that keep the deadline."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if isinstance(manager, ProxyManager):  # a SOCKS manager brings its own connections
            manager.pool_classes_by_scheme = _POOLS
        return manager


def _addresses(host: str, port: int, seconds: float) -> list[str]:
    """The addresses of a host; raises OSError, or TimeoutError after `seconds`.

    getaddrinfo takes no time-out, and a dead name server holds it for half a minute: so it runs
    in a thread that is left behind if it is late, and ends by itself.
    """
    found: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            rows = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
            found.put([str(row[4][0]) for row in rows])
        except (OSError, UnicodeError) as error:
            found.put(error)

    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    try:
        answer = found.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError("the name was not resolved in time") from None
    if isinstance(answer, Exception):
        raise OSError("the name could not be resolved") from None
    return answer
