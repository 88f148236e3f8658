"""Our webserver obeys its own pages and programs on this machine, and no other page."""

import json
import socket
from collections.abc import Iterator
from importlib.metadata import version

import pytest
import requests

from spotify_pipeline_tests.defs.instance.processes.webserver_process import guarded_webserver

MUTATION = "mutation { stopSensor(id: 1) { __typename } }"
QUERY = "{ version }"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with guarded_webserver(tmp_path_factory.mktemp("ui")) as port:
        yield port


def status(port: int, method: str, path: str, body: object = None, **headers: str) -> int:
    """The status of a request with exactly these headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    data = json.dumps(body) if isinstance(body, dict) else body
    answer = requests.request(
        method,
        f"http://127.0.0.1:{port}{path}",
        data=data,  # type: ignore[arg-type]
        headers=named,
        timeout=20,
        allow_redirects=False,
    )
    return answer.status_code


def handshake(port: int, **headers: str) -> str:
    """The status line that a WebSocket's handshake gets."""
    lines = [
        "GET /graphql HTTP/1.1",
        *("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
        *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol: graphql-ws"),
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return connection.recv(4096).decode().splitlines()[0]


def test_same_origin_pages_and_programs_are_served(port: int) -> None:
    json_type = {"Content_Type": "application/json"}
    assert status(port, "POST", "/graphql", {"query": QUERY}, **json_type) == 200
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "[::1]:3000"):
        own = {"Host": host, "Origin": f"http://{host}", "Sec_Fetch_Site": "same-origin"}
        assert status(port, "POST", "/graphql", {"query": QUERY}, **own, **json_type) == 200
        assert handshake(port, Host=host, Origin=f"http://{host}").split()[1] == "101"
    assert status(port, "GET", "/runs") == 200
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert status(port, "GET", "/runs", Sec_Fetch_Dest="document", **link) == 200


def test_a_proxy_that_the_settings_name_is_served(port: int) -> None:
    origin = "https://ui.example.org"
    for host in ("ui.example.org", f"127.0.0.1:{port}"):
        headers = {"Host": host, "Origin": origin, "Content_Type": "application/json"}
        assert status(port, "POST", "/graphql", {"query": QUERY}, **headers) == 200
        assert handshake(port, Host=host, Origin=origin).split()[1] == "101"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:3000",
        "[::1",
        "[::1]evil.example",
        "",
        "10.0.0.1",
        "evil@127.0.0.1",
        "evil:secret@localhost:3000",
        "@ui.example.org",
        "127.0.0.1/evil",
        "127.0.0.1:3000.evil.example",
        "127.0.0.1:3000:80",
    ],
)
def test_a_foreign_host_is_refused(port: int, host: str) -> None:
    assert status(port, "GET", "/server_info", Host=host) in (400, 403)
    assert handshake(port, Host=host or "x").split()[1] == "403"


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:1",
        "http://localhost",
        "http://[::1",
        "",
        "chrome-extension://127.0.0.1:{port}",
    ],
)
def test_a_foreign_origin_is_refused(port: int, origin: str) -> None:
    origin = origin.format(port=port)
    kind = {"Content_Type": "application/json"}
    assert status(port, "POST", "/graphql", {"query": QUERY}, Origin=origin, **kind) == 403
    assert status(port, "OPTIONS", "/graphql", Origin=origin) == 403
    assert handshake(port, Host=f"127.0.0.1:{port}", Origin=origin).split()[1] == "403"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("destination", ["image", "script", "iframe", "empty"])
def test_requests_embedded_in_foreign_pages_are_refused(
    port: int, site: str, destination: str
) -> None:
    headers = {"Sec_Fetch_Site": site, "Sec_Fetch_Dest": destination}
    assert status(port, "GET", "/runs", **headers) == 403


@pytest.mark.parametrize("query", [MUTATION, f"query A {QUERY} {MUTATION}", "", QUERY])
def test_graphql_by_get_is_refused(port: int, query: str) -> None:
    path = f"/graphql?{requests.models.RequestEncodingMixin._encode_params({'query': query})}"
    assert status(port, "GET", path) == 405
    assert status(port, "POST", path) == 405


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "text/plain; a=application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=application/json",
        "",
    ],
)
def test_a_form_encoded_request_is_refused(port: int, kind: str) -> None:
    body = {"query": MUTATION}
    assert status(port, "POST", "/graphql", body, Content_Type=kind) in (403, 405)
    if kind:
        path = "/report_asset_materialization/plays"
        assert status(port, "POST", path, body, Content_Type=kind) == 403


def test_the_request_guard_fits_the_installed_dagster() -> None:
    """It replaces a name in the webserver's command line: look there before this number changes."""
    assert version("dagster-webserver") == "1.13.27"
