"""A user at a browser, as plain HTTP: opens the address, agrees or refuses, reads the page."""

import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from html import unescape
from urllib.parse import parse_qs, urlencode, urlsplit

import requests

Visit = Callable[[str], "Page"]


@dataclass(frozen=True)
class Page:
    """What the browser shows at the end, and through which addresses it came."""

    status: int
    text: str
    addresses: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The one paragraph of our own page."""
        (found,) = re.findall(r"<p>(.*)</p>", self.text)
        return unescape(found)


def visit(address: str, **headers: str) -> Page:
    """Opens an address and follows wherever it sends the browser."""
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(address, headers=headers, timeout=30)
    return Page(answer.status_code, answer.text, tuple(r.url for r in [*answer.history, answer]))


def changed(address: str, **query: str) -> str:
    """The address with other parameters."""
    asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
    return f"{address.partition('?')[0]}?{urlencode(asked | query)}"


def consent_as(user_id: str) -> Visit:
    """Agrees as this listener of the simulator."""
    return lambda address: visit(changed(address, user_id=user_id))


def refusing(address: str) -> Page:
    """Refuses."""
    return visit(changed(address, deny="1"))


@dataclass
class Browser:
    """The browser that the program opens: `user` acts on the address, `pages` shows the end."""

    user: Visit | None = None
    pages: list[Page] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def open(self, address: str) -> bool:
        """As `webbrowser.open`."""
        if self.user is None:
            return False
        user = self.user
        thread = threading.Thread(target=lambda: self.pages.append(user(address)))
        self.threads.append(thread)
        thread.start()
        return True

    @property
    def last_page(self) -> Page:
        """The page, once it was loaded."""
        for thread in self.threads:
            thread.join(30)
        return self.pages[-1]


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
