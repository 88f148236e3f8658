"""The web page beside many users: how long it takes, how many requests a second, its memory.

    python -m benchmarks.web [--plays 1000000] [--users 100000] [--out FILE]

The page runs as `spotify-pipeline web` does, in a process of its own on one core, with a login that
is a member of the app's role alone. A client on another core asks over one connection. Uncached are
the pages of a signed-in user; cached is a public profile.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from secrets import token_urlsafe
from statistics import median, quantiles

import click
import psutil
from sqlalchemy import URL, Engine, text
from starlette.responses import Response

from benchmarks.histories import World, fill_crowd, fill_history, world
from benchmarks.machine import RESULTS, cpu_seconds, save
from spotify_pipeline import app
from spotify_pipeline.cli.local.dagster_processes import free_port
from spotify_pipeline.domain.outcome import REBUILT
from spotify_pipeline.storage.embedded import client as embedded
from spotify_pipeline.storage.postgres.roles import give_all_rights
from spotify_pipeline.sync.users import sync_users
from spotify_pipeline.web.sessions import Cookies

USER, NAME, LOGIN = "measured", "measured", "spotify_web"
# Targets.
P95_MS, PER_SECOND, PSS_MB = 100, 500, 120


def fill(here: World, plays: int, users: int) -> None:
    """A user with so many plays, their days and personality, among so many others."""
    here.now = now = datetime.now(UTC)
    with here.pipeline.engine.begin() as conn:
        fill_crowd(conn, users, now)
    here.connect(USER)
    with here.pipeline.engine.begin() as conn:
        fill_history(conn, USER, plays, now)
    (outcome,) = sync_users(here.pipeline, [USER], REBUILT)
    assert outcome.result == "synced", outcome
    with here.pipeline.engine.begin() as conn:
        conn.execute(
            text(
                "UPDATE spotify_pipeline.users SET account_id = 'account' WHERE user_id = :user_id"
            ),
            {"user_id": USER},
        )
        app.sign_in_user(conn, "account", USER, "Measured")
        app.set_profile(conn, USER, NAME, is_public=True)
    with here.pipeline.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM ANALYZE"))


def own_login(engine: Engine, url: URL) -> URL:
    """The URL of a login with the app's rights and no others."""
    with engine.begin() as conn:
        conn.execute(text(f"CREATE ROLE {LOGIN} LOGIN PASSWORD 'web' IN ROLE spotify_app"))
    return url.set(username=LOGIN, password="web")  # noqa: S106 (of a benchmark)


@contextmanager
def served(environment: Mapping[str, str], port: int) -> Iterator[psutil.Process]:
    """The page's process, on the machine's last core."""
    command = [sys.executable, "-m", "spotify_pipeline.cli.main", "web", "--port", str(port)]
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            process = psutil.Process(child.pid)
            process.cpu_affinity([max(process.cpu_affinity() or [0])])
            assert child.stdout
            assert "The web page is at" in child.stdout.readline()
            yield process
        finally:
            child.terminate()


def ask(to: HTTPConnection, path: str, cookie: str = "") -> float:
    """One request; its time in milliseconds."""
    began = time.perf_counter()
    to.request("GET", path, headers={"Cookie": cookie} if cookie else {})
    response = to.getresponse()
    body = response.read()
    assert response.status == 200, (path, response.status, body[:200])
    return 1000 * (time.perf_counter() - began)


def pss_mb(pid: int) -> float:
    """Memory of a process, its share of shared pages included."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1000
    raise AssertionError


def session_cookie(engine: Engine, secret: str) -> str:
    """The cookie of a browser in which the user is signed in."""
    with engine.connect() as conn:
        settings = app.user_settings(conn, USER)
    assert settings is not None
    response = Response()
    Cookies(secret, secure=False).sign_in(response, USER, settings)
    return response.headers["set-cookie"].partition(";")[0]


def measure(
    process: psutil.Process, server_pid: int, port: int, cookie: str
) -> list[dict[str, object]]:
    """A row per page: its time, CPU of the process and of Postgres, requests a second."""
    rows: list[dict[str, object]] = []
    to = HTTPConnection("127.0.0.1", port)
    for what, path, requests, signed_in in (
        ("dashboard", "/", 300, True),
        ("profile, uncached", "/me", 300, True),
        ("year", f"/year/{datetime.now(UTC).year}", 100, True),
        ("profile, cached", f"/{NAME}", 10_000, False),
    ):
        for _ in range(20):
            ask(to, path, cookie if signed_in else "")
        own, postgres = cpu_seconds(process.pid), cpu_seconds(server_pid)
        began = time.perf_counter()
        took = [ask(to, path, cookie if signed_in else "") for _ in range(requests)]
        wall = time.perf_counter() - began
        own = cpu_seconds(process.pid) - own
        rows.append(
            {
                "page": what,
                "median_ms": median(took),
                "p95_ms": quantiles(took, n=20)[-1],
                "own_ms": 1000 * own / requests,
                "postgres_ms": 1000 * (cpu_seconds(server_pid) - postgres) / requests,
                "per_second": requests / wall,
                "per_cpu_second": requests / own,
                "load": os.getloadavg()[0],
            }
        )
    return rows


@click.command()
@click.option("--plays", default=1_000_000, help="Plays of the measured user.")
@click.option("--users", default=100_000, help="Other users.")
@click.option("--out", type=Path, default=RESULTS / "web.json", help="Where the figures go.")
def main(plays: int, users: int, out: Path) -> None:
    """Prints a table and writes the figures."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="web_")))
        server = stack.enter_context(embedded.start(home))
        url = server.url("web")
        here = stack.enter_context(world(url))
        engine = here.pipeline.engine
        click.echo(f"Filling {plays:,} plays and {users:,} users ...", err=True)
        fill(here, plays, users)
        give_all_rights(engine, here.pipeline.settings)
        secret, port = token_urlsafe(48), free_port(None, 8100)
        environment = {
            "SPOTIFY_PIPELINE_HOME": str(home / "page"),
            "SPOTIFY_PIPELINE_DATABASE_URL": url.render_as_string(hide_password=False),
            "SPOTIFY_PIPELINE_WEB_DATABASE_URL": own_login(engine, url).render_as_string(
                hide_password=False
            ),
            "SPOTIFY_PIPELINE_WEB_SECRET": secret,
            "SPOTIFY_CLIENT_ID": "benchmark",
        }
        running = embedded.running_server(home)
        assert running is not None
        process = stack.enter_context(served(environment, port))
        # The client leaves the page's core to it.
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores - {max(cores)} or cores)
        rows = measure(process, running.pid, port, session_cookie(engine, secret))
        memory = pss_mb(process.pid)
    click.echo("page                median, ms    p95   CPU, ms: page  Postgres  requests/s  load")
    for row in rows:
        click.echo(
            f"{row['page']:<20}{row['median_ms']:>10.2f}{row['p95_ms']:>7.1f}{row['own_ms']:>15.2f}"
            f"{row['postgres_ms']:>10.2f}{row['per_second']:>12,.0f}{row['load']:>6.1f}"
        )
    slowest = max(float(str(row["p95_ms"])) for row in rows[:2])
    cached = float(str(rows[-1]["per_cpu_second"]))
    click.echo(f"The page's process has {memory:.0f} MB (PSS); at most {PSS_MB}.")
    click.echo(f"A cached profile: {cached:,.0f} a second of CPU; at least {PER_SECOND}.")
    click.echo(f"Dashboard and profile: p95 {slowest:.0f} ms; at most {P95_MS}.")
    save(out, {"plays": plays, "users": users, "pss_mb": memory, "rows": rows})


if __name__ == "__main__":
    main()
