"""Builds the image and runs its processes as compose.yaml would, with buildah and without Docker.

Run it as root where buildah is installed: docs/production.md has the commands.
"""

import json
import os
import shlex
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from sqlalchemy import URL, Engine, text

from spotify_pipeline.cli.local.dagster_processes import free_port
from spotify_pipeline_tests.cli.conftest import TOKEN_KEY, with_password
from spotify_pipeline_tests.conftest import temporary_database

pytestmark = [pytest.mark.image, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parents[2]
IMAGE = "localhost/spotify_pipeline:test"
Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def container() -> Iterator[str]:
    """A container of the image, built from SPOTIFY_PIPELINE_TEST_BASE_IMAGE."""
    base = os.environ.get("SPOTIFY_PIPELINE_TEST_BASE_IMAGE")
    if not shutil.which("buildah") or os.geteuid() or not base:
        pytest.skip("needs root, buildah, and SPOTIFY_PIPELINE_TEST_BASE_IMAGE")
    options = shlex.split(os.environ.get("SPOTIFY_PIPELINE_TEST_BUILD_OPTIONS", ""))
    build = ["buildah", "build", "--isolation", "chroot", "--format", "docker", *options]
    subprocess.run(
        [*build, "--build-arg", f"BASE_IMAGE={base}", "-t", IMAGE, str(ROOT)], check=True
    )
    name = subprocess.run(
        ["buildah", "from", IMAGE], check=True, capture_output=True, text=True
    ).stdout.strip()
    yield name
    subprocess.run(["buildah", "rm", name], check=True, capture_output=True)


@pytest.fixture
def run(container: str, _admin: Engine, empty_database: URL, tmp_path: Path) -> Iterator[Run]:
    """Starts the program in the container with a database and a home; ends it afterwards."""
    home, started = tmp_path / "home", []
    home.mkdir()
    os.chown(home, 10001, 10001)
    login = f"web_{uuid4().hex}"
    with temporary_database(_admin, "template0") as dagsters:
        environ = {
            "SPOTIFY_PIPELINE_WEB_DATABASE_URL": with_password(
                empty_database.set(username=login, password="page")
            ),
            "SPOTIFY_PIPELINE_DATABASE_URL": with_password(empty_database),
            "DAGSTER_PG_URL": with_password(dagsters),
            "SPOTIFY_PIPELINE_TOKEN_KEYS": TOKEN_KEY,
        }
        options = [part for name, value in environ.items() for part in ("--env", f"{name}={value}")]

        def run(*arguments: str) -> "subprocess.Popen[str]":
            process = subprocess.Popen(
                [
                    *("buildah", "run", "--isolation", "chroot", "--user", "10001:10001"),
                    *("--volume", f"{home}:/var/lib/spotify_pipeline", *options),
                    *(container, "--", "spotify-pipeline", *arguments),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            started.append(process)
            return process

        yield run
        for process in started:
            below = []
            with suppress(psutil.NoSuchProcess):
                below = psutil.Process(process.pid).children(recursive=True)
            for victim in below:
                with suppress(psutil.NoSuchProcess):
                    victim.kill()
            process.kill()
            process.wait()
    with _admin.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text(f"DROP ROLE IF EXISTS {login}"))


def until(done: Callable[[], bool], seconds: float = 180) -> None:
    """Wait for a condition of the processes outside."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(1)


def answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
        return bool(response.status == 200)
    return False


def test_all_processes_of_the_set_live_in_one_image_without_root(run: Run) -> None:
    made = run("init-db")
    said, _ = made.communicate(timeout=120)
    assert made.returncode == 0, said
    assert run("healthy").wait(60) == 1, "no daemon runs yet"
    code_port, ui_port = free_port(None, first=24_266), free_port(None, first=23_000)
    code_server = f"127.0.0.1:{code_port}"
    run("serve", "code-server", "--port", str(code_port))
    page_port = free_port(None, first=28_100)
    run("web", "--port", str(page_port))
    run("serve", "webserver", "--port", str(ui_port), "--code-server", code_server)
    until(lambda: answers(f"http://127.0.0.1:{ui_port}/server_info"))
    daemon = run("serve", "daemon", "--code-server", code_server)
    until(lambda: run("healthy").wait(60) == 0)
    assert daemon.poll() is None
    until(lambda: answers(f"http://127.0.0.1:{page_port}/healthz"))


def test_the_image_takes_whole_commands_as_dagsters_chart_gives_them(container: str) -> None:
    inspected = subprocess.run(
        ["buildah", "inspect", "--type", "image", IMAGE], check=True, capture_output=True, text=True
    )
    assert not json.loads(inspected.stdout)["OCIv1"]["config"].get("Entrypoint")
    command = ["buildah", "run", "--isolation", "chroot", "--user", "10001:10001", container, "--"]
    for whole in (["dagster", "api", "grpc", "--help"], ["python", "-c", "import dagster_k8s"]):
        subprocess.run([*command, *whole], check=True, capture_output=True)
