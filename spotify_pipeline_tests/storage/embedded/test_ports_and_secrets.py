"""The port, the passwords and the log of the embedded server."""

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from spotify_pipeline.storage.embedded.client import EmbeddedPostgresError, database_url, start
from spotify_pipeline.storage.embedded.home import LOG_BYTES, PostgresHome
from spotify_pipeline.storage.embedded.postmaster import choose_port
from spotify_pipeline_tests.storage.embedded.processes import (
    client,
    connect,
    has_ended,
    mode,
    postmaster,
    processes_of,
    supervisors_of,
    until,
)


def test_the_port_stays_the_same_until_another_process_takes_it(home: Path) -> None:
    with start(home) as server:
        port = server.url().port
    until(lambda: not processes_of(home))
    with start(home) as server:
        assert server.url().port == port
    until(lambda: not processes_of(home))
    with socket.create_server(("127.0.0.1", port)), start(home) as server:
        assert server.url().port != port


def test_a_missing_free_port_is_reported_in_one_sentence(home: Path) -> None:
    files = PostgresHome(home)
    files.make()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedPostgresError, match="No free port"):
            choose_port(files, range(port, port + 1))


def test_the_password_is_required_and_not_exposed(home: Path) -> None:
    with start(home) as server:
        url = server.url()
        for wrong in ("wrong", ""):
            with pytest.raises(psycopg.OperationalError, match="password"):
                connect(url, password=wrong)
        password = (home / "postgres" / "password").read_text().strip()
        assert password == url.password
        assert mode(home / "postgres" / "password") == 0o600
        assert password not in str(url)
        assert password not in (home / "postgres" / "server.log").read_text()
        for process in processes_of(home):
            assert password not in " ".join(process.cmdline())


def test_the_environment_of_the_client_is_not_passed_to_the_server(home: Path) -> None:
    with client(home) as caller:
        caller.answer()
        found = processes_of(home)
        assert len(found) == 2
        for process in found:
            assert "hunter2" not in process.environ().values()


def test_databases_are_made_once_and_closed_to_other_roles(home: Path) -> None:
    with start(home) as server, connect(server) as connection:
        assert server.url("dagster") == server.url("dagster")
        connection.execute("CREATE ROLE app LOGIN PASSWORD 'app'")
        for database in ("spotify_pipeline", "dagster"):
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                connect(server.url(database), user="app", password="app")


def test_a_process_joins_once_however_often_it_asks_for_a_url(
    new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLMODE", "require")  # meant for another server
    first = database_url(new_home)
    assert database_url(new_home) == first
    assert database_url(new_home, "dagster").database == "dagster"
    with connect(first) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)


def test_the_log_holds_no_statement_and_no_row_and_stays_bounded(home: Path) -> None:
    with start(home) as server, connect(server) as connection:
        connection.execute("CREATE TABLE private (name text PRIMARY KEY)")
        for _ in range(2):
            with suppress(psycopg.errors.UniqueViolation):
                connection.execute("INSERT INTO private VALUES ('canary')")
        log = home / "postgres" / "server.log"
        until(lambda: "duplicate key" in log.read_text())
        assert "canary" not in log.read_text()
        os.truncate(log, LOG_BYTES + 1)
        until(lambda: log.stat().st_size == 0)
        assert mode(home / "postgres" / "server.log.1") == 0o600


def test_sigterm_to_the_supervisor_stops_the_server_cleanly(home: Path) -> None:
    with start(home) as server:
        server.url()
        running = postmaster(home)
        [supervisor] = supervisors_of(home)
        supervisor.send_signal(signal.SIGTERM)
        until(lambda: has_ended(running))
        until(lambda: not supervisors_of(home))
        assert "database system is shut down" in (home / "postgres" / "server.log").read_text()
        with connect(server) as connection:  # and who still needs it has it again
            assert connection.execute("SELECT 1").fetchone() == (1,)
