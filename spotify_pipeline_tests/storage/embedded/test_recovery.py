"""Every process of the embedded Postgres may be killed at any time."""

import os
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from spotify_pipeline.storage.embedded.client import EmbeddedPostgresError, running_server, start
from spotify_pipeline.storage.embedded.home import PostgresHome
from spotify_pipeline.storage.embedded.supervisor import MAX_YOUNG_DEATHS, Supervisor, lock_home
from spotify_pipeline_tests.storage.embedded.processes import (
    ROOT,
    client,
    connect,
    count_rows,
    has_ended,
    postmaster,
    processes_of,
    supervisors_of,
    until,
    write_rows,
)


def test_a_killed_postgres_comes_back_by_itself_with_every_committed_row(home: Path) -> None:
    with start(home) as server:
        url = server.url()
        with connect(url) as connection:
            write_rows(connection)
        # A backend busy with a query does not notice that its postmaster is gone.
        busy = connect(url)
        pid = busy.info.backend_pid

        def work() -> None:
            with suppress(psycopg.OperationalError):
                busy.execute("SELECT count(*) FROM generate_series(1, 100000000000) AS n")

        worker = threading.Thread(target=work)
        worker.start()
        until(lambda: psutil.Process(pid).cpu_percent(0.05) > 50)
        killed = postmaster(home)
        killed.kill()
        until(lambda: (found := running_server(home)) and found.pid != killed.pid)
        assert server.url() == url
        with connect(url) as connection:
            assert count_rows(connection) == 1000
        worker.join(10)
        assert not worker.is_alive()


def test_a_killed_supervisor_is_replaced_while_the_server_runs(home: Path) -> None:
    with start(home) as first, connect(first) as connection:
        write_rows(connection)
        server = postmaster(home)
        [supervisor] = supervisors_of(home)
        supervisor.kill()
        until(lambda: not supervisors_of(home))
        with client(home) as second:
            assert second.answer()["pid"] == server.pid
        assert count_rows(connection) == 1000  # on the connection from before
    until(lambda: has_ended(server))
    until(lambda: not processes_of(home))


def test_after_everything_was_killed_the_next_client_finds_every_committed_row(home: Path) -> None:
    with start(home) as server:
        with connect(server) as connection:
            write_rows(connection)
        for process in processes_of(home):
            process.kill()
        until(lambda: not processes_of(home))
        with connect(server) as connection:
            assert count_rows(connection) == 1000


def test_a_server_killed_again_and_again_comes_back_each_time(home: Path) -> None:
    with start(home) as server:
        with connect(server) as connection:
            write_rows(connection)
        for _ in range(3):
            killed = postmaster(home)
            killed.kill()
            until(lambda killed=killed: has_ended(killed))
            with connect(server) as connection:
                assert count_rows(connection) == 1000


def test_a_server_killed_while_it_starts_is_started_again(home: Path) -> None:
    with start(home) as server:
        server.url()
        for process in processes_of(home):
            process.kill()  # the next start has to recover first, which takes a moment
    until(lambda: not processes_of(home))
    with client(home) as waiting:
        until(lambda: [p.kill() for p in processes_of(home) if "-D" in p.info["cmdline"]], 10)
        assert "url" in waiting.answer()


def test_a_server_that_dies_ten_times_right_after_its_start_is_not_restarted(home: Path) -> None:
    files = PostgresHome(home)
    lock = lock_home(files)
    assert lock is not None
    supervisor = Supervisor(files, lock)
    supervisor.young_deaths = MAX_YOUNG_DEATHS - 1
    supervisor.started = time.monotonic()
    with pytest.raises(EmbeddedPostgresError, match="10 times in a row"):
        supervisor.restart()
    os.close(lock)


def test_a_kill_while_the_data_directory_is_made_leaves_nothing_half_made(new_home: Path) -> None:
    with client(new_home) as first:
        until(lambda: list(new_home.glob("postgres/initdb-*/data/base")))
        first.kill()
        for process in processes_of(new_home):
            process.kill()
        until(lambda: not processes_of(new_home))
    assert not (new_home / "postgres" / "data").exists()
    with start(new_home) as server, connect(server) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert not list(new_home.glob("postgres/initdb-*"))


def test_a_stale_pid_file_that_names_another_process_is_no_obstacle(home: Path) -> None:
    data = home / "postgres" / "data"
    owner = data.stat().st_uid
    as_owner = {"user": owner} if ROOT else {}
    with subprocess.Popen(["/bin/sleep", "60"], **as_owner) as other:
        pid_file = data / "postmaster.pid"
        pid_file.write_text(f"{other.pid}\n{data}\n1\n20000\n\n127.0.0.1\n  0 0\nready\n")
        os.chown(pid_file, owner, -1)
        with start(home) as server:
            server.url()
        other.kill()
