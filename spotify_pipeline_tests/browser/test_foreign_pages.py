"""A page of another origin, open in a real browser, reaches none of our loopback ports."""

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from playwright.sync_api import Browser, Page

from spotify_pipeline.simulator.server import running_simulator
from spotify_pipeline_tests.browser.pages import CHROMIUM, chromium
from spotify_pipeline_tests.defs.instance.processes.webserver_process import guarded_webserver

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

# DNS rebinding: resolves an attacker's host name to this machine.
REBOUND = "--host-resolver-rules=MAP evil.example 127.0.0.1"
ATTACKS = """
async target => {
    const mutation = '{"query": "mutation { stopSensor(id: 1) { __typename } }"}';
    const image = new Image();
    image.src = `${target}?query=${encodeURIComponent(JSON.parse(mutation).query)}`;
    const frame = document.createElement('iframe');
    frame.src = target;
    document.body.append(image, frame);
    const options = {method: 'POST', mode: 'no-cors', body: mutation};
    const post = headers => fetch(target, {...options, headers}).catch(() => null);
    await post({'Content-Type': 'text/plain'});
    await post({'Content-Type': 'application/x-www-form-urlencoded'});
    await fetch(target, {method: 'POST', headers: {'Content-Type': 'application/json'},
        body: mutation}).catch(() => null);
    return await new Promise(resolve => {
        const socket = new WebSocket(target.replace('http', 'ws'), 'graphql-ws');
        socket.onopen = () => resolve('opened');
        socket.onerror = () => resolve('refused');
    });
}
"""
FORM = """
target => {
    const form = document.createElement('form');
    form.method = 'POST';
    form.action = target;
    form.enctype = 'text/plain';
    document.body.append(form);
    form.submit();
}
"""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with guarded_webserver(tmp_path_factory.mktemp("ui")) as port:
        yield port


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the attacker's web server."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "index.html").write_text("<!doctype html><title>Foreign</title><body>")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(REBOUND) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    yield page
    page.close()


@pytest.mark.parametrize("host", ["evil.example", "localhost", "127.0.0.1"])
def test_a_page_of_another_origin_reaches_neither_ui_nor_simulator(
    page: Page, port: int, foreign: int, host: str
) -> None:
    with running_simulator() as simulator:
        for target in (f"http://127.0.0.1:{port}/graphql", f"{simulator.url}/_sim/tokens"):
            page.goto(f"http://{host}:{foreign}/")
            answers: list[tuple[str, int]] = []
            page.on(
                "response",
                lambda response, target=target, answers=answers: (
                    answers.append((response.request.method, response.status))
                    if response.url.startswith(target)
                    else None
                ),
            )
            assert page.evaluate(ATTACKS, target) == "refused"
            page.evaluate(FORM, target)
            page.wait_for_url(target)
            assert {status for _, status in answers} <= {403, 405}
            assert {"GET", "POST"} <= {method for method, _ in answers}


def test_a_rebound_host_name_is_not_served(page: Page, port: int) -> None:
    for path in ("/", "/graphql", "/server_info"):
        response = page.goto(f"http://evil.example:{port}{path}")
        assert response is not None
        assert response.status == 403


def test_the_ui_works_in_its_own_origin(page: Page, port: int) -> None:
    answers: list[int] = []
    sockets: list[str] = []
    page.on("response", lambda response: answers.append(response.status))
    page.on("websocket", lambda socket: socket.on("framereceived", lambda _: sockets.append("in")))
    page.goto(f"http://localhost:{port}/deployment")
    page.get_by_text("Code locations").first.wait_for()
    page.wait_for_load_state("networkidle")
    assert max(answers) < 400
    assert sockets
