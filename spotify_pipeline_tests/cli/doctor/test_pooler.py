"""The pipeline behind a real PgBouncer, which gives every transaction another server session."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import URL, text

from spotify_pipeline.storage.postgres.engine import SESSION, make_engine
from spotify_pipeline.storage.postgres.notifications import listening
from spotify_pipeline_tests.cli.conftest import only_line, with_password
from spotify_pipeline_tests.storage.postgres.test_foreign_settings import HOSTILE, set_for_all

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="There is no pgbouncer on this machine.")

TOLERATED = {name: HOSTILE[name] for name in HOSTILE if not name.startswith("default_")}


@pytest.fixture
def pooler(postgres_url: URL) -> Iterator[int]:
    """The port of a PgBouncer in transaction mode, two server sessions per database."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp())
    config = folder / "pgbouncer.ini"
    config.write_text(
        "[databases]\n"
        f"* = host=127.0.0.1 port={postgres_url.port} user={postgres_url.username}"
        f" password={postgres_url.password}\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200\n"
        "ignore_startup_parameters = extra_float_digits\n"
    )
    as_nobody = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
    if as_nobody:
        for path in (folder, config):
            shutil.chown(path, "nobody")
    with subprocess.Popen([PGBOUNCER, "-q", config], **as_nobody) as process:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield port
        process.kill()
    shutil.rmtree(folder)


def test_every_transaction_has_our_settings_and_leaves_none_behind(database, pooler) -> None:
    set_for_all(database, TOLERATED)
    pooled = make_engine(database.set(port=pooler))

    def work(number: int) -> set[tuple[int, str, str, str]]:
        found = set()
        for _ in range(20):
            with pooled.begin() as conn:
                found.add(
                    tuple(
                        conn.execute(
                            text(
                                "SELECT pg_backend_pid(), current_setting('search_path'),"
                                " current_setting('IntervalStyle'),"
                                " current_setting('transaction_isolation')"
                            )
                        ).one()
                    )
                )
                conn.execute(
                    text(
                        "INSERT INTO spotify_pipeline.artists (spotify_id, name) VALUES (:id, 'A')"
                        " ON CONFLICT (spotify_id) DO UPDATE SET name = excluded.name"
                    ),
                    {"id": f"a{number}"},
                )
        return found

    with ThreadPoolExecutor(5) as threads:
        seen = set().union(*threads.map(work, range(5)))
    # Shared by five threads; PgBouncer may have replaced one of its two.
    assert len({pid for pid, *_ in seen}) < 5
    assert {row[1:] for row in seen} == {(SESSION["search_path"], "postgres", "read committed")}
    pooled.dispose()
    # Another client of the same server sessions, such as the app, finds what it had before.
    other = make_engine(database.set(port=pooler), settings={})
    with other.connect() as conn:
        assert conn.scalar(text("SHOW search_path")) == HOSTILE["search_path"]
        assert conn.scalar(text("SHOW intervalstyle")) == "iso_8601"
    other.dispose()


def test_no_session_behind_the_pooler_listens(database, pooler) -> None:
    pooled = make_engine(database.set(port=pooler))
    listening_channels = text("SELECT count(*) FROM pg_listening_channels()")
    pooled = pooled.execution_options(isolation_level="AUTOCOMMIT")
    with pooled.connect() as conn, listening(conn) as listens:
        assert not listens
        assert conn.scalar(listening_channels) == 0
    pooled.dispose()


def test_repeated_syncs_succeed_through_the_pooler(
    database, dagster, pooler, environ, run, listener, simulator
) -> None:
    for variable, url in (("SPOTIFY_PIPELINE_DATABASE_URL", database), ("DAGSTER_PG_URL", dagster)):
        environ.setenv(variable, with_password(url.set(port=pooler)))
    assert run("init-db").exit_code == 0
    names = ["ann", "bob", "cy", "dee"]
    for name in names:
        listener(name)
    for _ in range(3):
        synced = run("sync", *names)
        assert synced.exit_code == 0, synced.output
        assert "4 of 4 users synced" in synced.output
    assert run("sync", "ann").exit_code == 0
    assert run("rebuild").exit_code == 0
    printed = run("doctor").output
    assert "through a connection pooler" in printed


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("default_transaction_isolation", "repeatable read", "read committed"),
        ("default_transaction_read_only", "on", "off"),
    ],
)
def test_a_transaction_mode_that_cannot_be_changed_there_is_refused(
    database, pooler, environ, run, name, wrong, right
) -> None:
    set_for_all(database, {name: f"'{wrong}'"})
    environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", with_password(database.set(port=pooler)))
    for arguments in (("users", "list"), ("init-db",)):
        refused = run(*arguments)
        assert refused.exit_code == 2
        assert f"SET {name} = '{right}'" in only_line(refused)
    assert f"SET {name} = '{right}'" in run("doctor").output
