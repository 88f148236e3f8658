"""One server for all processes of a home, from the first that joins to the last that leaves."""

import shutil
from pathlib import Path

import pytest

from spotify_pipeline.storage.embedded.client import EmbeddedPostgresError, running_server, start
from spotify_pipeline.storage.embedded.postmaster import PORTS
from spotify_pipeline_tests.storage.embedded.processes import (
    CLIENT,
    Client,
    client,
    connect,
    count_rows,
    has_ended,
    postmaster,
    processes_of,
    stays,
    supervisors_of,
    until,
    write_rows,
)


def test_processes_share_one_server_and_the_last_to_leave_stops_it(home: Path) -> None:
    clients = [Client(home) for _ in range(3)]
    answers = [client.answer() for client in clients]
    assert len({answer["pid"] for answer in answers}) == 1
    assert len({answer["url"] for answer in answers}) == 1
    server = postmaster(home)
    clients[0].leave()
    clients[1].leave()
    assert stays(server.is_running, 1.5)  # longer than the grace: one client is still there
    clients[2].leave()
    until(lambda: has_ended(server))
    until(lambda: not processes_of(home))
    assert running_server(home) is None


def test_eight_processes_that_start_at_once_end_up_with_one_supervisor(new_home: Path) -> None:
    clients = [Client(new_home) for _ in range(8)]
    assert len({client.answer()["pid"] for client in clients}) == 1
    until(lambda: len(supervisors_of(new_home)) == 1)
    for joined in clients:
        joined.kill()


def test_a_killed_client_does_not_keep_the_server(home: Path) -> None:
    with client(home) as only:
        only.answer()
        server = postmaster(home)
        only.kill()
        until(lambda: has_ended(server))


def test_a_client_that_starts_while_the_server_stops_gets_a_new_one(home: Path) -> None:
    start(home).close()
    first = postmaster(home).pid
    until(lambda: running_server(home) is None)
    with start(home) as server, connect(server) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert postmaster(home).pid != first


def test_a_forked_child_keeps_the_server_of_its_parent(home: Path) -> None:
    fork = "import os\nif os.fork(): server.close()\nelse: sys.stdin.read()"
    script = CLIENT.replace("sys.stdin.read()", fork)
    with client(home, script=script) as parent:
        parent.answer()
        server = postmaster(home)
        assert parent.process.wait(10) == 0
        assert stays(server.is_running, 1.5)
        parent.leave()  # the child reads the same standard input
        until(lambda: has_ended(server))


def test_a_home_that_is_moved_away_takes_its_data_along_and_its_server_ends(home: Path) -> None:
    with start(home) as server:
        with connect(server) as connection:
            write_rows(connection)
        running = postmaster(home)
        home.rename(home.with_name("elsewhere"))
        until(lambda: has_ended(running))
        until(lambda: not processes_of(home))
        with pytest.raises(EmbeddedPostgresError, match="deleted or moved"):
            server.url()
    with start(home.with_name("elsewhere")) as server, connect(server) as connection:
        assert count_rows(connection) == 1000


def test_a_deleted_home_stops_its_server(home: Path) -> None:
    with start(home):
        running = postmaster(home)
        shutil.rmtree(home, ignore_errors=True)
        until(lambda: has_ended(running))
        until(lambda: not processes_of(home))


def test_looking_up_the_running_server_starts_and_creates_nothing(new_home: Path) -> None:
    assert running_server(new_home) is None
    assert not new_home.exists()
    with start(new_home):
        found = running_server(new_home)
        assert found
        assert found.port in PORTS
