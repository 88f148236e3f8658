"""The doctor finds what is wrong, says what to do, changes nothing and shows no secret."""

import json
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from sqlalchemy import func, insert, text, update

from spotify_pipeline.cli.doctor.finding import problem
from spotify_pipeline.defs.in_process import opened_instance
from spotify_pipeline.domain import quota
from spotify_pipeline.domain.quota import Quota
from spotify_pipeline.domain.sealing import new_key
from spotify_pipeline.settings import load_settings
from spotify_pipeline.simulator.faults.refusals import QuotaExceeded
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.storage.work.api_budget import read_state, take
from spotify_pipeline_tests.cli.conftest import CLIENT_SECRET, TOKEN_KEY, with_password
from spotify_pipeline_tests.storage.rows import add_user, connect

SOON = datetime.now(UTC) + timedelta(minutes=50)
KEY_ID = TOKEN_KEY.partition(":")[0]


@pytest.fixture
def healthy(dagster, simulator, tmp_path):
    """Everything configured and reachable."""
    (tmp_path / "home").mkdir(mode=0o700)


@pytest.fixture
def findings(run):
    """Runs the doctor: the exit code, and the findings by check (problems first)."""

    def findings():
        result = run("doctor", "--json")
        assert result.stdout, result.stderr
        found = sorted(json.loads(result.stdout), key=lambda finding: finding["status"] == "ok")
        by_check = {}
        for finding in found:
            by_check.setdefault(finding["check"], finding)
        return result.exit_code, by_check

    return findings


def problems(found):
    return {
        check: finding["detail"]
        for check, finding in found.items()
        if finding["status"] == "problem"
    }


def test_a_healthy_installation_has_a_line_per_check_and_exits_0(healthy, listener, run, environ):
    listener("mira")
    result = run("doctor")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "Nothing is wrong."
    for words in (
        "ok       python: 3.",
        "dagster 1.13.",
        "ok       SPOTIFY_PIPELINE_DATABASE_URL: set (secret)",
        "ok       SPOTIFY_PIPELINE_TOP_LIMIT: 20 (default)",
        "ok       SPOTIFY_PIPELINE_REVALIDATE_URL: not set",
        "ok       database: PostgreSQL 1",
        "ok       schema: revision 0",
        f"ok       token key {KEY_ID}: opens its 1 token",
        "ok       api budget: not blocked; no limit per day, no limit in 30 seconds",
        "ok       users: 1 user: 1 connected",
        "ok       last syncs: no user's has failed",
        "ok       past due: no user",
        "ok       dagster storage: can be reached",
        "ok       spotify: http://127.0.0.1:",
    ):
        assert words in result.stdout


def test_doctor_shows_no_secret(healthy, listener, run, environ, database):
    environ.setenv("SPOTIFY_PIPELINE_REVALIDATE_URL", "https://me:canary-password@app.example.com")
    environ.setenv("SPOTIFY_PIPELINE_REVALIDATE_SECRET", "canary-revalidate")
    token = listener("mira").refresh_token
    for arguments in (("doctor",), ("doctor", "--json")):
        output = run(*arguments).output
        assert "https://me:***@app.example.com" in output
        for secret in ("canary", CLIENT_SECRET, TOKEN_KEY.partition(":")[2], token):
            assert secret not in output
        if database.password:
            assert str(database.password) not in output


def test_a_role_with_a_needless_connect_right_is_a_note(healthy, findings, engine, database):
    assert findings()[1]["database access"]["status"] == "note"
    with engine.begin() as conn:
        conn.execute(text(f'REVOKE CONNECT ON DATABASE "{database.database}" FROM PUBLIC'))
    assert findings()[1]["database access"]["status"] == "note"  # temporary objects
    with engine.begin() as conn:
        conn.execute(text(f'REVOKE TEMPORARY ON DATABASE "{database.database}" FROM PUBLIC'))
    code, found = findings()
    assert "database access" not in found
    assert code == 0


def test_an_app_role_with_other_rights_than_the_contract_is_a_problem_that_init_db_mends(
    healthy, findings, run, engine
):
    assert findings()[1]["app role"]["status"] == "ok"
    with engine.begin() as conn:
        conn.execute(text("GRANT SELECT ON spotify_pipeline.user_tokens TO spotify_app"))
    assert "SELECT on user_tokens" in problems(findings()[1])["app role"]
    with engine.begin() as conn:
        conn.execute(text("REVOKE USAGE ON SCHEMA spotify_pipeline FROM spotify_app"))
    assert "lacks USAGE on schema" in problems(findings()[1])["app role"]
    assert run("init-db").exit_code == 0
    assert findings()[1]["app role"]["status"] == "ok"


def test_a_missing_app_role_is_a_note_with_its_create_statement(healthy, findings, environ):
    environ.setenv("SPOTIFY_PIPELINE_APP_ROLE", "nobody-made.me")
    code, found = findings()
    assert code == 0
    assert found["app role"]["status"] == "note"
    assert 'CREATE ROLE "nobody-made.me" NOLOGIN' in found["app role"]["to_do"]


def test_with_wrong_configuration_doctor_reports_only_that(run, environ):
    environ.setenv("SPOTIFY_API_URL", "http://canary.example.com")
    environ.setenv("SPOTIFY_PIPELINE_CONNECTIONS", "many")
    result = run("doctor")
    assert result.exit_code == 1
    assert "problem  configuration: SPOTIFY_API_URL must use https" in result.stdout
    assert "problem  configuration: SPOTIFY_PIPELINE_CONNECTIONS" in result.stdout
    assert "canary" not in result.output


def test_a_probably_misspelt_variable_is_a_note(healthy, findings, environ):
    environ.setenv("SPOTIFY_PIPELINE_DATBASE_URL", "x")
    code, found = findings()
    assert code == 0
    assert found["SPOTIFY_PIPELINE_DATBASE_URL"]["status"] == "note"


def test_without_a_client_id_no_user_can_be_synced(healthy, findings, environ):
    environ.delenv("SPOTIFY_CLIENT_ID")
    code, found = findings()
    assert code == 1
    assert list(problems(found)) == ["SPOTIFY_CLIENT_ID"]


def test_a_home_that_others_can_write_is_a_problem(healthy, findings, tmp_path):
    (tmp_path / "home").chmod(0o777)
    code, found = findings()
    assert code == 1
    assert found["home"]["to_do"] == f"chmod go-w {tmp_path / 'home'}"


def test_files_that_an_older_version_left_open_are_a_problem(run, healthy, tmp_path):
    home = tmp_path / "home"
    home.chmod(0o755)
    (home / "logs").mkdir(mode=0o755)
    (home / "logs" / "daemon.log").touch(0o644)
    (home / "closed").mkdir(mode=0o700)
    (home / "closed" / "file").touch(0o644)
    result = run("doctor", "--json")
    (found,) = [
        finding for finding in json.loads(result.stdout) if "other accounts" in finding["detail"]
    ]
    assert (found["check"], found["status"]) == ("home", "problem")
    assert found["detail"].endswith(f"{home}/logs and 1 more")
    subprocess.run(found["to_do"], shell=True, check=True)
    assert "other accounts" not in run("doctor").stdout


def test_doctor_notes_a_ui_behind_a_proxy(healthy, findings, environ):
    environ.setenv("SPOTIFY_PIPELINE_UI_HOSTS", "UI.example.org, dagster.internal")
    code, found = findings()
    assert code == 0
    assert found["dagster ui"]["status"] == "note"
    assert "ui.example.org,dagster.internal" in found["dagster ui"]["detail"]
    environ.setenv("SPOTIFY_PIPELINE_UI_HOSTS", "https://ui.example.org:8443/")
    found = findings()[1]
    assert "without scheme" in problems(found)["configuration"]
    assert found["configuration"]["to_do"] == "correct or unset it"


def test_a_home_that_cannot_be_created_is_a_problem(healthy, findings, environ):
    environ.setenv("SPOTIFY_PIPELINE_HOME", "/dev/null/home")
    code, found = findings()
    assert code == 1
    assert problems(found)["home"].startswith("/dev/null is no directory")


def test_an_unreachable_database_hides_no_other_finding(healthy, findings, environ):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", f"postgresql://u:p@127.0.0.1:{port}/x")
    code, found = findings()
    assert code == 1
    assert "nothing listens there" in problems(found)["database"]
    assert found["database"]["to_do"] == (
        "start the server or correct SPOTIFY_PIPELINE_DATABASE_URL"
    )
    assert found["dagster storage"]["status"] == "ok"
    assert found["spotify"]["status"] == "ok"


def test_a_schema_of_another_revision_is_a_problem(healthy, findings, environ, empty_database):
    environ.setenv("SPOTIFY_PIPELINE_DATABASE_URL", with_password(empty_database))
    code, found = findings()
    assert code == 1
    assert found["database"]["status"] == "problem"
    assert found["database"]["to_do"] == "run `spotify-pipeline init-db`"


def test_dagsters_database_is_named_when_it_is_missing(healthy, findings, environ, database):
    environ.setenv("DAGSTER_PG_URL", with_password(database.set(database="none_here")))
    _, found = findings()
    assert "none_here" in problems(found)["dagster storage"]
    assert "DAGSTER_PG_URL" in found["dagster storage"]["to_do"]


def test_tokens_whose_key_is_gone_are_counted(healthy, listener, findings, environ):
    listener("mira")
    listener("kenji")
    environ.setenv("SPOTIFY_PIPELINE_TOKEN_KEYS", new_key()[1])
    code, found = findings()
    assert code == 1
    assert found[f"token key {KEY_ID}"]["detail"].startswith("2 tokens cannot be read.")
    assert "backup" in found[f"token key {KEY_ID}"]["to_do"]


def test_missing_keys_are_a_problem(healthy, findings, environ):
    environ.delenv("SPOTIFY_PIPELINE_TOKEN_KEYS")
    _, found = findings()
    assert found["token keys"]["status"] == "problem"
    assert found["token keys"]["to_do"] == "run `spotify-pipeline keys new` to make one"


def block(engine, reason):
    with engine.begin() as conn:
        conn.execute(update(t.api_budget).values(blocked_until=SOON, blocked_reason=reason))


@pytest.mark.parametrize("reason", ["RATE", "QUOTA", "APP"])
def test_a_probe_that_spotify_answers_ends_the_block_with_one_call(
    healthy, listener, run, findings, engine, simulator, reason
):
    listener("mira")
    assert run("sync", "mira").exit_code == 0
    block(engine, reason)
    simulator.forget_calls()
    result = run("doctor", "--probe")
    assert "ok       probe: Spotify answered one call; nothing is blocked now" in result.stdout
    assert result.exit_code == 0
    assert [call.endpoint for call in simulator.calls()] == ["me"]
    with engine.connect() as conn:
        assert read_state(conn).blocked_until is None


def test_a_probe_that_spotify_refuses_leaves_the_block_as_long_as_spotify_says(
    healthy, listener, run, engine, simulator
):
    listener("mira")
    assert run("sync", "mira").exit_code == 0
    block(engine, "RATE")
    fault = simulator.add_fault(QuotaExceeded(retry_after=7200))
    result = run("doctor", "--probe")
    simulator.clear_faults(fault)
    assert result.exit_code == 1
    assert "problem  probe: one call was made in vain: Spotify asked for a pause" in result.stdout
    with engine.connect() as conn:
        state = read_state(conn)
    assert state.blocked_reason == "QUOTA"
    assert state.blocked_seconds == pytest.approx(7200, abs=60)


def test_a_probe_without_connected_users_makes_no_call(healthy, run, engine):
    block(engine, "QUOTA")
    result = run("doctor", "--probe")
    assert "note     probe: no call was made" in result.stdout
    assert result.exit_code == 1


def test_impossible_instants_are_reported_and_ignored(healthy, findings, engine, listener):
    listener("mira")
    later = func.now() + timedelta(hours=6)
    with engine.begin() as conn:
        conn.execute(update(t.api_budget).values(rate_tat=later))
        conn.execute(update(t.sync_state).values(lease_id=uuid4(), lease_until=later))
    code, found = findings()
    assert code == 0
    assert found["api budget"]["detail"].startswith("rate_tat of api_budget lie further")
    assert found["instants"]["detail"].startswith("1 lease of sync_state end later")


def test_doctor_reports_the_remaining_calls(healthy, findings, engine, environ):
    environ.setenv("SPOTIFY_PIPELINE_CALLS_PER_DAY", "2000")
    environ.setenv("SPOTIFY_PIPELINE_CALLS_PER_30S", "60")
    with engine.begin() as conn:
        for _ in range(5):
            assert take(conn, Quota(0, 2000), "request") is None
    found = findings()[1]
    assert found["api budget"]["detail"] == (
        "not blocked; 1,995 of 2,000 calls of 24 hours are left, at most 60 in 30 seconds"
    )
    assert found["daily calls"]["detail"] == (
        "2,000 serve 26 users with polls every hour, 66 with polls every 2"
    )


def test_more_active_users_than_the_days_calls_serve_are_a_note(healthy, findings, engine, environ):
    environ.setenv("SPOTIFY_PIPELINE_CALLS_PER_DAY", "30")
    with engine.begin() as conn:
        for user_id in ("dora", "emil"):
            add_user(conn, user_id)
            connect(conn, user_id)
        conn.execute(update(t.user_tokens).values(authorized_at=func.now()))
    found = findings()[1]["daily calls"]
    assert found["detail"].startswith(
        "30 serve 0 users with polls every hour, 1 with polls every 2, and 2 are active"
    )
    assert "larger quota" in found["to_do"]


def test_more_active_users_than_the_pace_serves_are_a_note(healthy, findings, engine, environ):
    environ.setenv("SPOTIFY_PIPELINE_CALLS_PER_30S", "60")
    found = findings()[1]
    serve = "60 calls in 30 seconds serve 4,950 users with polls every hour"
    assert found["pace"]["detail"] == serve
    assert found["hourly checks"]["detail"].endswith("look at all users")
    with engine.begin() as conn:
        for user_id in ("dora", "emil"):
            add_user(conn, user_id)
            connect(conn, user_id)
        conn.execute(update(t.user_tokens).values(authorized_at=func.now()))
    # As if a user needed 86,400 calls a day.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quota, "POLLS", 86_400)
        found = findings()[1]["pace"]
    assert found["status"] == "note"
    assert "1 user with polls every hour, and 2 are active" in found["detail"]
    assert "SPOTIFY_PIPELINE_CALLS_PER_30S" in found["to_do"]


@pytest.mark.parametrize(
    ("sentence", "to_do"),
    [
        ("The database is not set up yet: run `spotify-pipeline init-db`.", "run `spotify-p"),
        (
            "The database is busy; nothing is half-done, try again.",
            "try again",
        ),
        ("x cannot be used: this user may not connect to it; GRANT CONNECT to it.", "GRANT CONN"),
        ("The key is missing. Restore the file from your backup; or reconnect.", "restore the"),
        ("X must be a whole number. Correct or unset it.", "correct or unset it"),
        ("The clocks differ: nothing was written. Set both clocks.", "set both clocks"),
    ],
)
def test_a_finding_separates_the_remedy_from_the_problem(sentence: str, to_do: str) -> None:
    found = problem("x", sentence)
    assert found.to_do is not None
    assert found.to_do.startswith(to_do)
    assert sentence.startswith(found.detail)
    assert found.to_do[1:] not in found.detail


def test_a_refused_app_may_be_tried_again_when_spotify_takes_its_id_and_secret(
    healthy, findings, engine
):
    block(engine, "APP")
    code, found = findings()
    assert (code, found["api budget"]["status"]) == (0, "note")
    with engine.connect() as conn:
        assert read_state(conn).due_probe == "APP"


@pytest.mark.parametrize(
    ("reason", "words"), [("RATE", "slow down"), ("QUOTA", "quota"), ("APP", "SPOTIFY_CLIENT_ID")]
)
def test_a_block_of_the_developer_account_says_until_when_and_why(
    healthy, findings, environ, engine, reason, words
):
    environ.setenv("SPOTIFY_CLIENT_SECRET", "a wrong one")
    block(engine, reason)
    code, found = findings()
    assert code == 1
    assert problems(found)["api budget"] == f"{reason}: no call before {SOON:%Y-%m-%d %H:%M:%S}Z"
    assert words in found["api budget"]["to_do"]


def test_users_who_wait_too_long_are_a_problem_and_fresh_ones_are_none(
    healthy, listener, findings, engine
):
    listener("mira")
    listener("kenji")
    assert findings()[0] == 0
    s = t.sync_state
    late = datetime.now(UTC) - timedelta(hours=2)
    with engine.begin() as conn:
        conn.execute(update(s).where(s.c.user_id == "mira").values(next_due_at=late))
    code, found = findings()
    assert code == 1
    assert found["past due"]["detail"].startswith("the plays of 1 user should")
    assert "spotify-pipeline sync --due" in found["past due"]["to_do"]


def test_a_request_that_no_run_serves_is_a_problem_unless_spotify_has_blocked_the_app(
    healthy, listener, findings, engine
):
    listener("mira")
    with engine.begin() as conn:
        conn.execute(text("SELECT spotify_pipeline.request_sync('mira')"))
    assert findings()[0] == 0
    with engine.begin() as conn:
        conn.execute(update(t.sync_requests).values(requested_at=text("now() - interval '6 min'")))
    code, found = findings()
    assert code == 1
    assert found["requests"]["detail"].startswith("1 request waited longer than 5 minutes")
    assert "sync_request_sensor" in found["requests"]["to_do"]
    block(engine, "QUOTA")
    assert "requests" not in problems(findings()[1])


def test_an_upload_that_no_run_imports_is_a_problem(healthy, listener, findings, engine):
    listener("mira")
    i = t.history_imports
    with engine.begin() as conn:
        conn.execute(
            insert(i).values(user_id="mira", status="closed", closed_at=func.now(), files=[])
        )
    assert "uploads" not in problems(findings()[1])
    with engine.begin() as conn:
        conn.execute(update(i).values(closed_at=text("now() - interval '61 min'")))
    code, found = findings()
    assert code == 1
    assert found["uploads"]["detail"].startswith("1 upload waited longer than an hour")
    assert "history_import_sensor" in found["uploads"]["to_do"]


def test_sensors_and_schedules_that_are_switched_off_are_named(healthy, findings, dagster):
    off = [switched_off("sync_request_sensor", "SENSOR"), switched_off("nightly_sync", "SCHEDULE")]
    with opened_instance(load_settings()) as instance:
        assert "dagster automation" not in problems(findings()[1])
        for state in off:
            instance.add_instigator_state(state)
        code, found = findings()
    # Dagster's database is the one of other tests too.
    storage = make_engine(dagster, settings={})
    with storage.begin() as conn:
        for table in ("jobs", "instigators"):
            conn.execute(text(f"DELETE FROM public.{table}"))
    storage.dispose()
    assert "dagster automation" not in problems(findings()[1])
    assert code == 1
    assert problems(found)["dagster automation"] == (
        "switched off in Dagster: nightly_sync, sync_request_sensor"
    )


def switched_off(name, kind):
    """As the switch in the UI leaves it."""
    target = LoadableTargetOrigin(module_name="spotify_pipeline.definitions")
    location = InProcessCodeLocationOrigin(target, location_name="spotify_pipeline")
    origin = RemoteRepositoryOrigin(location, "__repository__").get_instigator_origin(name)
    data = ScheduleInstigatorData("0 3 * * *") if kind == "SCHEDULE" else None
    return InstigatorState(origin, InstigatorType[kind], InstigatorStatus.STOPPED, data)


def test_refused_users_are_a_note_and_suspects_a_problem(healthy, listener, findings, engine):
    listener("mira")
    u = t.users
    with engine.begin() as conn:
        conn.execute(update(u).values(connection="needs_reauth"))
    code, found = findings()
    assert (code, found["users"]["status"]) == (0, "note")
    with engine.begin() as conn:
        conn.execute(update(u).values(connection="suspect"))
    code, found = findings()
    assert (code, found["users"]["status"]) == (1, "problem")


def test_failed_users_are_counted_by_code_with_the_command_that_names_them(
    healthy, listener, findings, engine
):
    codes = {"mira": "RECONNECT", "kenji": "INTERNAL", "ayo": "RECONNECT"}
    s = t.sync_state
    for user_id, code in codes.items():
        listener(user_id)
        with engine.begin() as conn:
            conn.execute(update(s).where(s.c.user_id == user_id).values(last_error_code=code))
    code, found = findings()
    assert (code, found["last syncs"]["status"]) == (0, "note")
    assert found["last syncs"]["detail"] == "3 users failed: 2 RECONNECT, 1 INTERNAL"
    assert "spotify-pipeline users list --failed" in found["last syncs"]["to_do"]
    # A connection that ended is no failed sync.
    with engine.begin() as conn:
        of_mira, of_ayo = (t.users.c.user_id == user_id for user_id in ("mira", "ayo"))
        conn.execute(update(t.users).where(of_mira).values(connection="needs_reauth"))
        conn.execute(update(t.users).where(of_ayo).values(connection="disconnected"))
    _, found = findings()
    assert found["last syncs"]["detail"] == "1 user failed: 1 INTERNAL"


def test_deep_checks_detect_a_restore_without_constraints_and_triggers(
    healthy, listener, run, engine
):
    listener("mira")
    result = run("doctor", "--deep")
    assert result.exit_code == 0, result.output
    for words in ("ok       tables: as this version declares", "ok       no_orphan_rows: "):
        assert words in result.stdout
    with engine.begin() as conn:
        conn.execute(text("SET LOCAL session_replication_role = replica"))
        conn.execute(text("UPDATE spotify_pipeline.users SET timezone = 'Mars/Base'"))
        conn.execute(text("DELETE FROM spotify_pipeline.listening_tallies"))
        conn.execute(text("ALTER TABLE spotify_pipeline.users DROP CONSTRAINT ck_users_connection"))
        conn.execute(text("UPDATE spotify_pipeline.users SET connection = 'lost'"))
    assert run("doctor").exit_code == 0
    result = run("doctor", "--deep", "--json")
    problems = {
        finding["check"]: finding
        for finding in json.loads(result.stdout)
        if finding["status"] == "problem"
    }
    assert set(problems) == {
        *("tables", "no_orphan_rows", "values_are_in_range", "tallies_are_right"),
        "zones_are_known",
    }
    assert problems["tables"]["detail"] == "users: ck_users_connection is missing"
    assert (
        "`spotify-pipeline users list --check no_orphan_rows`"
        in (problems["no_orphan_rows"]["to_do"])
    )


def test_a_spotify_that_cannot_be_reached_is_a_problem(healthy, findings, environ):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    environ.setenv("SPOTIFY_ACCOUNTS_URL", url)
    code, found = findings()
    assert code == 1
    assert problems(found)["spotify"].startswith(f"{url} cannot be reached")


def test_a_port_without_tls_is_refused_as_spotify(healthy, findings, environ, simulator):
    environ.setenv("SPOTIFY_API_URL", simulator.url.replace("http://", "https://"))
    code, found = findings()
    assert code == 1
    assert "https://" in problems(found)["spotify"]


def test_behind_a_proxy_only_the_proxy_is_looked_for_and_its_password_not_shown(
    healthy, run, environ, simulator
):
    address = simulator.url.removeprefix("http://")
    environ.setenv("SPOTIFY_ACCOUNTS_URL", "https://accounts.spotify.invalid")
    environ.setenv("https_proxy", f"http://me:canary@{address}")
    environ.delenv("no_proxy", raising=False)
    result = run("doctor")
    assert f"can be reached (through the proxy {address})" in result.stdout
    assert "canary" not in result.output


def test_doctor_creates_no_database(run, environ, tmp_path):
    environ.delenv("SPOTIFY_PIPELINE_DATABASE_URL")
    environ.delenv("SPOTIFY_PIPELINE_TOKEN_KEYS")
    result = run("doctor")
    assert result.exit_code == 1
    assert "problem  database: there is none yet → run `spotify-pipeline init-db`" in result.stdout
    assert not Path(tmp_path / "home").exists()


@pytest.mark.parametrize("command", [("users", "list"), ("users", "show", "x"), ("keys", "list")])
def test_read_only_commands_create_no_database(run, environ, tmp_path, command):
    environ.delenv("SPOTIFY_PIPELINE_DATABASE_URL")
    environ.delenv("SPOTIFY_PIPELINE_TOKEN_KEYS")
    result = run(*command)
    assert result.exit_code == 2
    assert "not set up yet: run `spotify-pipeline init-db`" in result.stderr
    assert not Path(tmp_path / "home").exists()
