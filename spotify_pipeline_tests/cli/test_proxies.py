"""A proxy in the environment is for the world outside, never for this machine."""

import os
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator

import pytest
import requests

from spotify_pipeline.defs.in_process import opened_instance
from spotify_pipeline.settings import load_settings
from spotify_pipeline_tests.cli.conftest import COMMAND

NAMES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")


class Proxy:
    """Accepts connections and keeps the first line of each; answers nothing of use."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                self.asked.append(connection.recv(200).partition(b"\r\n")[0])
                connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")


@pytest.fixture
def proxy(environ: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Every variable that names a proxy names this one, and none says what is spared from it."""
    proxy = Proxy()
    for name in NAMES:
        environ.setenv(name, proxy.address)
        environ.setenv(name.upper(), proxy.address)
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        environ.setenv(name, "")
    yield proxy
    proxy.server.close()


def test_the_whole_stack_starts_and_talks_to_itself_without_the_proxy(dagster, proxy):
    """`dev`: its own question to the UI, and gRPC between webserver, daemon and code server."""
    with subprocess.Popen(
        [*COMMAND, "dev"],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        shown = []
        for line in process.stdout:
            shown.append(line)
            if "The Dagster UI is at" in line or line.startswith("Error"):
                break
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert "The Dagster UI is at" in shown[-1], shown
    assert proxy.asked == []
    # And the checks over all users are evaluated at once.
    with opened_instance(load_settings()) as instance:
        assert "health" in {run.job_name for run in instance.get_runs()}


@pytest.mark.parametrize("before", ["", "*", "db.example, 10.0.0.0/8"])
def test_every_http_library_bypasses_the_proxy_for_loopback_and_keeps_no_proxy(
    environ, proxy, before
):
    environ.setenv("NO_PROXY", before)
    environ.delenv("no_proxy")
    for _ in range(2):
        load_settings()
    for host in ("127.0.0.1", "localhost", "[::1]"):
        assert not requests.utils.get_environ_proxies(f"http://{host}:3000/")
        assert urllib.request.proxy_bypass(host.strip("[]"))
    assert bool(requests.utils.get_environ_proxies("http://db.example/")) == (before == "")
    assert bool(requests.utils.get_environ_proxies("http://other.example/")) == (before != "*")
    assert os.environ["no_grpc_proxy"].split(",")[-3:] == ["127.0.0.1", "::1", "localhost"]  # noqa: SIM112
