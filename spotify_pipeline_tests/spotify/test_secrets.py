"""Tokens reach Spotify's host and nothing else: no other host, no log, no error, no repr."""

import logging
import shutil
import ssl
import subprocess
import traceback
from dataclasses import replace

import pytest

from spotify_pipeline.spotify.errors import BadResponse, SpotifyError
from spotify_pipeline.spotify.http import Transport
from spotify_pipeline.spotify.messages import BaseUrl, Request, Response, bearer
from spotify_pipeline.spotify.oauth import Grant, OAuthClient
from spotify_pipeline_tests.spotify import bodies
from spotify_pipeline_tests.spotify.conftest import SMALL
from spotify_pipeline_tests.spotify.server import ScriptedServer, answer, raw, reset, silence

REFRESH_TOKEN = "canary-refresh-token"
CLIENT_SECRET = "canary-client-secret"
SECRETS = (
    REFRESH_TOKEN,
    CLIENT_SECRET,
    "canary-access-token",
    "canary-new-refresh-token",
    "canary-in-body",
)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300, 304])
def test_a_redirect_is_never_followed_and_no_token_reaches_another_host(
    server, elsewhere, transport, request_to, status
):
    elsewhere.script(answer(200, bodies.ME))
    server.script(answer(status, b"", {"Location": f"{elsewhere.url}/v1/me"}))
    with pytest.raises(BadResponse, match=f"unexpected status {status}"):
        transport.send(request_to)
    assert (elsewhere.connections, elsewhere.seen) == (0, [])
    assert {seen.path for seen in server.seen} == {"/v1/me"}


def test_a_refresh_token_is_not_sent_on_by_a_redirect_either(server, elsewhere, transport):
    elsewhere.script(answer(200, {"access_token": "x"}))
    server.script(answer(307, b"", {"Location": f"{elsewhere.url}/api/token"}))
    with pytest.raises(BadResponse):
        OAuthClient(server.url, "client", CLIENT_SECRET, transport).refresh(REFRESH_TOKEN)
    assert elsewhere.connections == 0


def test_loopback_is_never_asked_through_a_proxy(
    server, elsewhere, transport, request_to, monkeypatch
):
    monkeypatch.setenv("HTTP_PROXY", elsewhere.url)
    monkeypatch.setenv("http_proxy", elsewhere.url)
    monkeypatch.setenv("ALL_PROXY", elsewhere.url)
    server.script(answer(200, bodies.ME))
    elsewhere.script(answer(200, bodies.ME))
    transport.send(request_to)
    assert elsewhere.connections == 0


def test_https_goes_through_the_environments_proxy_as_a_tunnel_that_sees_no_token(
    elsewhere, transport, monkeypatch
):
    monkeypatch.setenv("HTTPS_PROXY", elsewhere.url)
    elsewhere.script(raw(b"HTTP/1.1 403 Forbidden\r\n\r\n"))
    request = Request(
        "profile",
        "GET",
        BaseUrl.parse("https://api.spotify.invalid"),
        "/v1/me",
        authorization=bearer("canary-access-token"),
    )
    with pytest.raises(SpotifyError):
        transport.send(request)
    assert elsewhere.seen[0].method == "CONNECT"
    assert "canary" not in repr(elsewhere.seen)


def test_netrc_does_not_replace_the_authorization_header(
    server, transport, request_to, monkeypatch, tmp_path
):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.script(answer(200, bodies.ME))
    transport.send(request_to)
    assert server.seen[0].headers["authorization"] == "Bearer canary-access-token"


def test_cookies_are_not_shared_between_users(server, transport, request_to):
    server.script(answer(200, bodies.ME, {"Set-Cookie": "listener=one; Path=/"}))
    transport.send(request_to)
    transport.send(request_to)
    assert len(server.seen) == 2
    assert server.connections == 1
    assert all("cookie" not in seen.headers for seen in server.seen)


def test_an_untrusted_certificate_is_refused(tmp_path, transport):
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ScriptedServer(tls=context)
    server.script(answer(200, bodies.ME))
    base = BaseUrl.parse(server.url)
    request = Request("profile", "GET", base, "/v1/me", authorization=bearer("canary"))
    with pytest.raises(SpotifyError, match="no trusted TLS connection"):
        transport.send(request)
    assert server.seen == []
    server.close()


@pytest.mark.parametrize(
    "step",
    [
        answer(200, "canary-in-body"),
        answer(400, {"error": "canary-in-body"}),
        answer(400, bodies.REFRESH_REVOKED | {"x": "canary-in-body"}),
        answer(401, bodies.CLIENT_INVALID),
        answer(302, b"", {"Location": "http://canary-in-body/"}),
        answer(429, "canary-in-body", {"Retry-After": "canary-in-body"}),
        answer(502, "canary-in-body"),
        answer(200, {"access_token": "canary-in-body\r\nX: y"}),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nBad header canary-in-body\r\n\r\n{"),
        raw(b"canary-in-body\r\n\r\n"),
        reset(),
        silence(),
    ],
)
def test_no_failure_shows_a_secret_in_text_repr_traceback_or_log(server, naps, caplog, step):
    caplog.set_level(logging.DEBUG)
    transport = Transport(limits=replace(SMALL, read_seconds=0.5), sleep=naps)
    oauth = OAuthClient(server.url, "client", CLIENT_SECRET, transport)
    server.script(step)
    with pytest.raises(SpotifyError) as caught:
        oauth.refresh(REFRESH_TOKEN)
    error = caught.value
    assert error.__context__ is None  # a library's exception would hold the whole request
    shown = [str(error), repr(error), repr(vars(error)), repr(error.args), caplog.text]
    shown += traceback.format_exception(error)
    for secret in SECRETS:
        assert secret not in "\n".join(shown)


def test_success_logs_no_secret(server, transport, caplog):
    caplog.set_level(logging.DEBUG)
    # A client library that an earlier test configured may have made it quiet.
    caplog.set_level(logging.DEBUG, logger="urllib3")
    server.script(
        answer(
            200,
            {"access_token": "canary-access-token", "refresh_token": "canary-new-refresh-token"},
        )
    )
    grant = OAuthClient(server.url, "client", CLIENT_SECRET, transport).refresh(REFRESH_TOKEN)
    assert "POST /api/token" in caplog.text  # the library does log
    for secret in SECRETS:
        assert secret not in caplog.text + repr(grant) + str(grant)


def test_reprs_of_requests_and_responses_show_no_secret(request_to):
    assert repr(Grant("canary-access-token", 3600, REFRESH_TOKEN)) == "Grant()"
    assert "canary" not in repr(request_to)
    assert "canary" not in repr(Response(200, {"access_token": "canary"}, "canary"))


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX-Evil: 1", "tökén", "\ud800", "a\x00"])
def test_a_token_that_could_change_the_headers_is_refused_without_being_repeated(token):
    with pytest.raises(ValueError, match=r"^The access token is not visible ASCII\.$"):
        bearer(token)
