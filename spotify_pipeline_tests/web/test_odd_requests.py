"""What no browser sends: refused in a moment, and not as a fault of the page."""

import hashlib
import hmac
import logging
import re
import socket
import time
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
from sqlalchemy import Connection, update

from spotify_pipeline.storage import tables as t
from spotify_pipeline.web import account
from spotify_pipeline.web.profile import is_genuine
from spotify_pipeline.web.sessions import shown_name
from spotify_pipeline.web.site import linked
from spotify_pipeline_tests.web.conftest import Site


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


def open_request(site: Site, head: str) -> socket.socket:
    """A connection on which the beginning of a request was sent."""
    address = urlsplit(site.url)
    client = socket.create_connection((address.hostname, address.port), timeout=20)
    client.sendall(f"{head}\r\nHost: {address.netloc}\r\nCookie: {site.cookie}\r\n".encode())
    return client


def test_a_request_that_breaks_off_is_no_error(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    for path in ("/sync", "/hooks/revalidate"):
        with open_request(site, f"POST {path} HTTP/1.1") as client:
            kind = "Content-Type: application/x-www-form-urlencoded"
            client.sendall(f"{kind}\r\nContent-Length: 100\r\n\r\na".encode())
    # A round trip later the server has seen their ends.
    assert site.send("GET", "/healthz") == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_signature_of_an_endless_instant_is_refused() -> None:
    instant, body = "1" * 5000, b"{}"
    signed = hmac.new(b"secret", instant.encode() + b"." + body, hashlib.sha256).hexdigest()
    headers = {
        "x-spotify-pipeline-timestamp": instant,
        "x-spotify-pipeline-signature": f"sha256={signed}",
    }
    assert not is_genuine("secret", headers, body)


def test_a_user_has_one_download_at_a_time_and_a_stalled_one_ends(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "_exported", lambda *_: (" " * 1_000_000 for _ in range(100)))
    monkeypatch.setattr(account, "DOWNLOAD_SECONDS", 3)
    with open_request(site, "GET /settings/download HTTP/1.1") as client:
        client.sendall(b"\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        assert site.send("GET", "/settings/download") == 503
        monkeypatch.setattr(account, "_exported", lambda *_: iter(["{}"]))
        deadline = time.monotonic() + 20
        while (status := site.send("GET", "/settings/download")) == 503:
            assert time.monotonic() < deadline
        assert status == 200


def test_an_address_with_a_slash_too_many_is_not_found(site: Site) -> None:
    for path in ("/settings/", "/shared/token/", "/callback/?code=x&state=y"):
        assert site.send("GET", path) == 404
    assert site.send("POST", "/settings/forget/", data={"csrf": site.csrf}) == 404


def test_refusals_have_the_navigation_of_the_signed_in_user(site: Site) -> None:
    wrong = {"data": {"csrf": "wrong"}}
    refused = [
        ("GET", "/nope", 404, {}),
        ("GET", "/" + "a" * 600, 404, {}),
        ("GET", "/year/1", 404, {}),
        ("POST", "/sync", 403, wrong),
        ("PUT", "/settings", 405, {}),
    ]
    for method, path, status, more in refused:
        response = site.fetch(method, path, **more)
        assert (response.status_code, 'href="/settings"' in response.text) == (status, True)
    for path in ("/nope", "/" + "a" * 600):
        page = site.fetch("GET", path, signed_in=False).text
        assert "There is nothing here" in page
        assert 'href="/settings"' not in page


def test_a_name_without_ink_is_refused_and_never_shown(site: Site) -> None:
    for name in ("\u200b", "\u3164 \u00ad", "\u2800\U000e0041", "\u0301"):
        fields = {"csrf": site.csrf, "display_name": name}
        refused = site.fetch("POST", "/settings/profile", data=fields)
        assert (refused.status_code, "nothing that can be seen" in refused.text) == (400, True)
        # An app of another make, or Spotify, may have set it.
        assert shown_name(name, "eve") == "eve"
    assert shown_name("雨 🎧", "eve") == "雨 🎧"


def test_the_picture_is_well_formed_whatever_a_name_holds(site: Site) -> None:
    odd = "".join(map(chr, (*range(1, 32), *range(0xFDD0, 0xFDF0), 0xFFFE, 0xFFFF, 0x1FFFE)))
    fields = {"csrf": site.csrf, "display_name": f"Eve{odd}"}
    assert site.send("POST", "/settings/profile", data=fields) == 303
    year = site.fetch("GET", "/year").headers["Location"]
    picture = ElementTree.fromstring(site.fetch("GET", f"{year}/picture.svg").content)
    assert "Eve\ufffd" in "".join(picture.itertext())


def test_settings_show_no_share_link_that_does_not_work(site: Site, connection: Connection) -> None:
    def link() -> str:
        page = site.fetch("GET", "/settings").text
        assert ("cannot show it again" in page) == ("Revoke" in page and "data-link" not in page)
        (found,) = re.findall(r'value="[^"]*(/shared/[^"]+)" data-link', page) or [""]
        return str(found)

    assert link() == ""
    made = {"csrf": site.csrf, "days": "7"}
    assert site.send("POST", "/settings/share", data=made) == 303
    assert site.send("GET", link(), signed_in=False) == 200
    # As after a change of the page's secret: the token that it would derive is another.
    connection.execute(update(t.profiles).values(share_digest=b"0" * 32))
    assert link() == ""
    assert site.send("POST", "/settings/share", data=made) == 303
    assert site.send("GET", link(), signed_in=False) == 200


def test_an_address_in_a_complaint_is_a_link_and_all_else_is_escaped() -> None:
    link = '<a href="https://a.example/b" rel="noreferrer">https://a.example/b</a>'
    shown = linked("<i>\u202e at https://a.example/b (weeks)")
    assert shown == f"&lt;i&gt;\ufffd at {link} (weeks)"
