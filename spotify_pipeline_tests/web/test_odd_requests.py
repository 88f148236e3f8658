"""What no browser sends: refused in a moment, and not as a fault of the page."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import requests
import uvicorn
from sqlalchemy import URL, text
from starlette.responses import Response

from spotify_pipeline import app
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.web.application import make_application
from spotify_pipeline.web.sessions import Cookies
from spotify_pipeline.web.site import Config

SECRET = "s" * 40


@dataclass
class Site:
    """A running page, and a browser in which Eve is signed in."""

    url: str
    cookie: str
    session: requests.Session = field(default_factory=requests.Session)

    def send(self, method: str, path: str, signed_in: bool = True, **more: object) -> int:
        """The status of the response."""
        headers = dict(more.pop("headers", {}))  # type: ignore[call-overload]
        if signed_in:
            headers["Cookie"] = self.cookie
        response = self.session.request(
            method,
            self.url + path,
            headers=headers,
            timeout=20,
            allow_redirects=False,
            **more,  # type: ignore[arg-type]
        )
        return response.status_code


@pytest.fixture
def site(database: URL) -> Iterator[Site]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
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
    server = uvicorn.Server(
        uvicorn.Config(make_application(config), port=port, log_level="critical")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Site(url, response.headers["set-cookie"].partition(";")[0])
    finally:
        server.should_exit = True
        thread.join()


def test_the_attacker_is_signed_in_and_a_form_needs_its_token(site: Site) -> None:
    assert site.send("GET", "/settings") == 200
    assert site.send("POST", "/sync", data={"csrf": "wrong"}) == 403
    assert site.send("POST", "/sync", signed_in=False, data={"csrf": "wrong"}) == 303


@pytest.mark.parametrize(
    "charset", ["punycode", "undefined", "idna", "utf-7", "raw_unicode_escape"]
)
@pytest.mark.parametrize("signed_in", [True, False])
def test_the_charset_of_a_form_is_not_the_clients_choice(
    site: Site, charset: str, signed_in: bool
) -> None:
    body = (
        b'--B\r\nContent-Disposition: form-data; name="csrf"\r\n\r\n'
        + b"a" * 400_000
        + b"-"
        + b"b" * 400_000
        + b"\r\n--B--\r\n"
    )
    kind = f"multipart/form-data; boundary=B; charset={charset}"
    began = time.monotonic()
    status = site.send("POST", "/sync", signed_in, data=body, headers={"Content-Type": kind})
    assert status == (415 if signed_in else 303)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("path", ["/%00", "/a%00b", "/year/" + "9" * 5000, "/year/" + "9" * 100])
def test_an_unknown_address_is_not_found(site: Site, path: str) -> None:
    assert site.send("GET", path) == 404
    assert site.send("GET", path, signed_in=False) in (303, 404)


@pytest.mark.parametrize("body", [b"csrf=%00", b"csrf=\xff", b"a=1&" * 30, b"%00=1"])
def test_a_malformed_form_is_refused(site: Site, body: bytes) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert site.send("POST", "/sync", data=body, headers=kind) in (400, 403)
