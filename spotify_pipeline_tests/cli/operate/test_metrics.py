"""/metrics exports figures without user ids; dashboard and alerts name only metrics that exist."""

import json
import re
import socket
from pathlib import Path

import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from spotify_pipeline.cli.operate.health import METRICS, PREFIX, UP, DatabaseCollector
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline_tests.storage.postgres.test_upgrade import add_rows

DEPLOY = Path(__file__).parents[3] / "deploy"
NAMES = {UP, *(PREFIX + name for name in METRICS)}


def scraped(engine) -> tuple[str, dict[tuple[str, str], float]]:
    registry = CollectorRegistry()
    registry.register(DatabaseCollector(engine, load_settings({})))
    body = generate_latest(registry).decode()
    samples = [s for family in text_string_to_metric_families(body) for s in family.samples]
    return body, {
        (s.name.removeprefix(PREFIX), "".join(s.labels.values())): s.value for s in samples
    }


def test_every_figure_is_that_of_the_database_and_none_names_a_user(engine, connection):
    add_rows(connection)
    connection.execute(
        text(
            "UPDATE spotify_pipeline.sync_state SET last_error_code = 'INTERNAL',"
            " plays_fetched_at = now() - interval '90 seconds'"
        )
    )
    connection.execute(
        text("UPDATE spotify_pipeline.user_tokens SET expires_at = now() + interval '9 days'")
    )
    connection.execute(
        text(
            "UPDATE spotify_pipeline.api_budget SET day_calls = '{40}',"
            " day_slot = extract(epoch FROM now()) / 900"
        )
    )
    body, found = scraped(engine)
    assert {name for name, _ in found} == {UP.removeprefix(PREFIX), *METRICS}
    expected = {
        ("up", ""): 1,
        ("plays", ""): 3,
        ("users", "connected"): 1,
        ("users", "suspect"): 0,
        ("open_gaps", ""): 1,
        ("requests_waiting", ""): 1,
        ("tokens_expiring", ""): 1,
        ("failed_users", "INTERNAL"): 1,
        ("imports", "failed"): 0,
        ("blocked", ""): 0,
        ("calls_used", ""): 40,
        ("calls_left", ""): 960,
    }
    assert {key: found[key] for key in expected} == expected
    assert 89 < found["last_poll_seconds", ""] < 150
    assert 0 <= found["oldest_request_seconds", ""] < 60
    assert re.search(r"\bada\b", body, re.IGNORECASE) is None


def test_a_user_who_has_to_reconnect_is_no_failed_user(engine, connection):
    add_rows(connection)
    connection.execute(text("UPDATE spotify_pipeline.users SET connection = 'needs_reauth'"))
    connection.execute(text("UPDATE spotify_pipeline.sync_state SET last_error_code = 'RECONNECT'"))
    found = scraped(engine)[1]
    assert found["users", "needs_reauth"] == 1
    assert [key for key in found if key[0] == "failed_users"] == []


def test_a_block_and_a_database_that_is_gone_are_figures_too(engine, connection, database):
    connection.execute(
        text(
            "UPDATE spotify_pipeline.api_budget SET blocked_reason = 'QUOTA',"
            " blocked_until = now() + interval '1 hour'"
        )
    )
    assert scraped(engine)[1]["blocked", ""] == 1
    gone = make_engine(database.set(database="no_such_database"))
    assert scraped(gone)[1] == {("up", ""): 0}
    gone.dispose()


def test_the_dashboard_and_the_alerts_name_only_metrics_that_exist_and_all_are_shown():
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    shown = {target["expr"] for panel in dashboard["panels"] for target in panel["targets"]}
    assert shown == NAMES
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    for rule in rules:
        used = set(re.findall(rf"{PREFIX}\w+", rule["expr"]))
        assert used
        assert used <= NAMES, rule["alert"]
        assert rule["annotations"]["summary"]


def test_the_command_serves_them_and_says_which_port_is_taken(run, environ):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run("metrics", "--port", str(taken.getsockname()[1]))
    assert result.exit_code == 2
    assert "choose another --port" in result.stderr
