"""A running page, and a browser in which Eve is signed in."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
import uvicorn
from sqlalchemy import URL, text
from starlette.responses import Response

from spotify_pipeline import app
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.web.application import make_application, server_config
from spotify_pipeline.web.sessions import Cookies
from spotify_pipeline.web.site import Config

SECRET = "s" * 40


@dataclass
class Site:
    """A running page, and a browser in which Eve is signed in."""

    url: str
    cookie: str
    session: requests.Session = field(default_factory=requests.Session)

    def fetch(
        self, method: str, path: str, signed_in: bool = True, **more: Any
    ) -> requests.Response:
        """The response; redirects are not followed."""
        headers = dict(more.pop("headers", {}))
        if signed_in:
            headers["Cookie"] = self.cookie
        return self.session.request(
            method, self.url + path, headers=headers, timeout=20, allow_redirects=False, **more
        )

    def send(self, method: str, path: str, signed_in: bool = True, **more: Any) -> int:
        """The status of the response."""
        return self.fetch(method, path, signed_in, **more).status_code

    @property
    def csrf(self) -> str:
        """The token of Eve's forms."""
        (token,) = set(
            re.findall(r'name="csrf" value="([^"]+)"', self.fetch("GET", "/history").text)
        )
        return str(token)


def free_url() -> str:
    """An address on loopback whose port is free."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def served(config: Config) -> Iterator[None]:
    """The page at the address of its configuration."""
    port = int(config.url.rpartition(":")[2])
    server = uvicorn.Server(server_config(make_application(config), "127.0.0.1", port))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def site(database: URL) -> Iterator[Site]:
    url = free_url()
    engine = make_engine(database)
    with engine.begin() as conn:
        conn.execute(text("SELECT spotify_pipeline.sign_in_user('account', 'eve', 'Eve')"))
    with engine.connect() as conn:
        settings = app.user_settings(conn, "eve")
    engine.dispose()
    assert settings is not None
    response = Response()
    Cookies(SECRET, secure=False).sign_in(response, "eve", settings)
    config = Config(
        url=url,
        database_url=database.set(drivername="postgresql+psycopg"),
        secret=SECRET,
        client_id="client",
        client_secret=None,
        accounts_url=url,
        api_url=url,
    )
    with served(config):
        yield Site(url, response.headers["set-cookie"].partition(";")[0])
