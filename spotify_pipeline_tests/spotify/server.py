"""A loopback server that plays a script: one step per request, the last one again and again."""

import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    target: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.target).query).items()}

    @property
    def form(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(self.body.decode()).items()}


# A step answers on the socket; True keeps the connection for the next request.
Step = Callable[[socket.socket], bool]


@dataclass
class ScriptedServer:
    """Listens on 127.0.0.1. `seen` grows by one per request, `connections` by one per accept."""

    steps: list[Step] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def script(self, *steps: Step) -> None:
        self.steps = list(steps)

    def close(self) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        if self.tls is not None:
            try:
                connection = self.tls.wrap_socket(connection, server_side=True)
            except OSError:
                return
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as reader:
            while (request := _read_request(reader)) is not None:
                with self._lock:
                    self.seen.append(request)
                    step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
                if not step(connection):
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
                    return


def _read_request(reader) -> Seen | None:
    line = reader.readline().decode("latin-1").split()
    if len(line) != 3:
        return None
    headers = {}
    while (header := reader.readline().decode("latin-1").strip()) != "":
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    body = reader.read(int(headers.get("content-length", "0")))
    return Seen(line[0], line[1], headers, body)


def answer(status: int, body: object = b"", headers: Mapping[str, str] | None = None) -> Step:
    """A well-formed answer; text and bytes as they are, anything else as JSON."""
    if isinstance(body, str):
        raw = body.encode()
    elif isinstance(body, bytes):
        raw = body
    else:
        raw = json.dumps(body).encode()
    lines = {"Content-Length": str(len(raw)), "Content-Type": "application/json"} | dict(
        headers or {}
    )
    head = f"HTTP/1.1 {status} Some Reason\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())

    def step(connection: socket.socket) -> bool:
        connection.sendall(head.encode("latin-1") + b"\r\n" + raw)
        return True

    return step


def raw(*pieces: bytes) -> Step:
    """Exactly these bytes, then the end of the connection."""

    def step(connection: socket.socket) -> bool:
        for piece in pieces:
            connection.sendall(piece)
        return False

    return step


def reset() -> Step:
    """The connection is torn down with RST instead of an answer."""

    def step(connection: socket.socket) -> bool:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        return False

    return step


def silence(seconds: float = 30.0) -> Step:
    """No answer at all, until the client hangs up."""

    def step(connection: socket.socket) -> bool:
        connection.settimeout(seconds)
        connection.recv(1)
        return False

    return step


def dripping(beginning: bytes, drop: bytes = b"x", every: float = 0.05) -> Step:
    """Slow-loris: a beginning, then a drop every now and then until the client hangs up."""

    def step(connection: socket.socket) -> bool:
        connection.sendall(beginning)
        while True:
            time.sleep(every)
            connection.sendall(drop)

    return step


def endless(beginning: bytes, block: bytes, times: int) -> Step:
    """A beginning and then the same block again and again."""

    def step(connection: socket.socket) -> bool:
        connection.sendall(beginning)
        for _ in range(times):
            connection.sendall(block)
        return False

    return step
