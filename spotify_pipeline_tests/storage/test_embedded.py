"""The embedded Postgres, with real servers and real kills."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from spotify_pipeline.storage.embedded import (
    EmbeddedPostgresError,
    database_url,
    running_server,
    start,
)
from spotify_pipeline.storage.postgres_home import LOG_BYTES, PostgresHome
from spotify_pipeline.storage.postgres_server import PORTS, choose_port
from spotify_pipeline.storage.supervisor import MAX_YOUNG_DEATHS, Supervisor, lock_home
from spotify_pipeline_tests.storage.embedded_helpers import (
    CLIENT,
    ROOT,
    Client,
    client,
    connect,
    end_all,
    has_ended,
    ordinary_user,
    postmaster,
    processes_of,
    stays,
    supervisors_of,
    until,
)


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[Path]:
    """A home that does not exist yet. As root it is behind a directory of mode 0700: pytest's."""
    yield tmp_path / "home"
    end_all(tmp_path)


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose server ran once and was stopped: most tests copy it, which is faster."""
    home = tmp_path_factory.mktemp("made") / "home"
    with start(home) as server:
        server.url()
    until(lambda: not processes_of(home))
    (home / "postgres" / "port").unlink()
    return home


@pytest.fixture
def home(made_home: Path, tmp_path: Path) -> Iterator[Path]:
    """A home of one's own whose data directory is there."""
    subprocess.run(["cp", "-a", made_home, tmp_path / "home"], check=True)
    yield tmp_path / "home"
    end_all(tmp_path)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that everyone can traverse."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    end_all(folder)
    shutil.rmtree(folder)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- shared, and stopped by the last -------------------------------------------------------------


def test_processes_share_one_server_and_the_last_to_leave_stops_it(home: Path) -> None:
    clients = [Client(home) for _ in range(3)]
    answers = [one.answer() for one in clients]
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
    assert len({one.answer()["pid"] for one in clients}) == 1
    until(lambda: len(supervisors_of(new_home)) == 1)
    for one in clients:
        one.kill()


def test_a_killed_client_does_not_keep_the_server(home: Path) -> None:
    with client(home) as only:
        only.answer()
        server = postmaster(home)
        only.kill()
        until(lambda: has_ended(server))


def test_who_comes_while_the_server_stops_gets_a_new_one(home: Path) -> None:
    start(home).close()
    first = postmaster(home).pid
    until(lambda: not (home / "postgres" / "server.json").exists())
    with start(home) as server, connect(server) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert postmaster(home).pid != first


def test_a_forked_child_keeps_the_server_of_its_parent(home: Path) -> None:
    script = CLIENT.replace("sys.stdin.read()", "import os\nos.fork() or sys.stdin.read()")
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


def test_asking_for_the_running_server_starts_and_makes_nothing(new_home: Path) -> None:
    assert running_server(new_home) is None
    assert not new_home.exists()
    with start(new_home):
        found = running_server(new_home)
        assert found
        assert found.version.split(".")[0] == "18"
        assert found.port in PORTS


# -- it survives ---------------------------------------------------------------------------------


def write_rows(connection: psycopg.Connection) -> None:
    connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")


def count_rows(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT count(DISTINCT n) FROM kept").fetchone()
    assert row
    return row[0]


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


def test_a_killed_supervisor_is_replaced_and_the_server_goes_on(home: Path) -> None:
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


def test_a_server_that_keeps_dying_young_is_given_up(home: Path) -> None:
    files = PostgresHome(home)
    lock = lock_home(files)
    assert lock is not None
    supervisor = Supervisor(files, lock)
    supervisor.young_deaths = MAX_YOUNG_DEATHS - 1
    supervisor.started = time.monotonic()
    with pytest.raises(EmbeddedPostgresError, match="10 times in a row"):
        supervisor.start_again()
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


# -- accounts and directories --------------------------------------------------------------------


@pytest.mark.skipif(not ROOT, reason="Only root drops to another account")
def test_root_runs_it_as_another_account_behind_a_directory_closed_to_all(
    open_folder: Path,
) -> None:
    closed = open_folder / "closed"
    closed.mkdir(0o700)
    home = closed / "home"
    with start(home) as server:
        server.url()
        assert postmaster(home).uids().effective != 0
        assert [mode(path) for path in (open_folder, closed, home)] == [0o755, 0o700, 0o700]


@pytest.mark.skipif(not ROOT, reason="Only root drops to another account")
def test_root_gives_the_server_no_capability_where_everyone_can_go(open_folder: Path) -> None:
    with start(open_folder / "home"):
        status = Path(f"/proc/{postmaster(open_folder / 'home').pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        assert mode(open_folder / "home") == 0o711


@pytest.mark.skipif(not ROOT, reason="Only root drops to another account")
def test_root_is_told_when_no_account_can_reach_the_home(tmp_path: Path) -> None:
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv to take capabilities from root")
    prefix = ["setpriv", "--bounding-set=-dac_read_search,-dac_override"]
    with client(tmp_path / "home", prefix) as refused:
        answer = refused.answer()
    assert "cannot reach" in answer["error"]
    assert "SPOTIFY_PIPELINE_HOME" in answer["error"]


def test_an_ordinary_user_runs_it_as_himself(open_folder: Path) -> None:
    user, prefix = ordinary_user()
    os.chown(open_folder, user.pw_uid, user.pw_gid)
    with client(open_folder / "home", prefix) as ordinary:
        assert "url" in ordinary.answer()
        assert postmaster(open_folder / "home").uids().effective == user.pw_uid
        assert mode(open_folder / "home") == 0o700


def test_a_home_that_cannot_be_written_is_said_in_one_sentence(open_folder: Path) -> None:
    _, prefix = ordinary_user()
    open_folder.chmod(0o555)
    with client(open_folder / "home", prefix) as refused:
        answer = refused.answer()
    assert answer["error"] == (
        f"{open_folder}/home/postgres cannot be written (Permission denied): "
        "set SPOTIFY_PIPELINE_HOME to a directory of your own."
    )


def test_spaces_quotes_and_foreign_letters_in_the_path_are_fine(tmp_path: Path) -> None:
    home = tmp_path / 'Müller\'s "música" 音楽 $HOME'
    try:
        with start(home) as server, connect(server) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            assert running_server(home)
    finally:
        end_all(home)


def test_data_of_another_major_version_is_refused_in_one_sentence(home: Path) -> None:
    (home / "postgres" / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedPostgresError, match=r"made by PostgreSQL 16 and .* is 18: install"):
        start(home)


def test_a_server_that_does_not_start_shows_the_end_of_its_log(home: Path) -> None:
    (home / "postgres" / "data" / "global" / "pg_control").unlink()
    with pytest.raises(EmbeddedPostgresError, match=r"(?s)did not start.*could not (find|open)"):
        start(home)
    until(lambda: not processes_of(home))


# -- ports ---------------------------------------------------------------------------------------


def test_the_port_stays_the_same_until_somebody_else_takes_it(home: Path) -> None:
    with start(home) as server:
        port = server.url().port
    until(lambda: not processes_of(home))
    with start(home) as server:
        assert server.url().port == port
    until(lambda: not processes_of(home))
    with socket.create_server(("127.0.0.1", port)), start(home) as server:
        assert server.url().port != port


def test_no_free_port_is_said_in_one_sentence(home: Path) -> None:
    files = PostgresHome(home)
    files.make()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedPostgresError, match="No free port"):
            choose_port(files, range(port, port + 1))


# -- secrets and rights --------------------------------------------------------------------------


def test_the_password_is_needed_and_nobody_else_sees_it(home: Path) -> None:
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


def test_the_callers_secrets_do_not_live_on_in_the_server(home: Path) -> None:
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


def test_a_process_joins_once_however_often_it_asks_for_a_url(new_home: Path) -> None:
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


def test_a_supervisor_that_is_told_to_end_stops_the_server_cleanly(home: Path) -> None:
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
