"""What no browser sends: refused in a moment, and not as a fault of the page."""

import time

import pytest

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
