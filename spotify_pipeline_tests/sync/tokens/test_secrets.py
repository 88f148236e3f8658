"""No token and no secret gets out of the pipeline: not into logs, errors, texts or tables."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy import text

from spotify_pipeline.simulator.faults.edits import RotateRefreshToken
from spotify_pipeline.simulator.faults.refusals import AccessTokenExpired, Body, ServerError
from spotify_pipeline.storage import tables as t
from spotify_pipeline.sync.requests import answer_requests
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

HOOK_SECRET = "canary-of-the-cache-hook"


@dataclass
class Canaries:
    """Every secret of a stage in plain text."""

    scenario: Scenario
    environ: dict[str, str]

    def __post_init__(self) -> None:
        keys = self.environ["SPOTIFY_PIPELINE_TOKEN_KEYS"]
        self.secrets = {
            "client secret": self.environ["SPOTIFY_CLIENT_SECRET"],
            "private key": keys.partition(":")[2],
            "hook secret": HOOK_SECRET,
        }

    def note_tokens(self) -> None:
        """The tokens that are stored now are secrets, whatever replaces them later."""
        for row in self.scenario.rows(t.user_tokens):
            for column in ("sealed_refresh_token", "sealed_access_token"):
                if row[column]:
                    opened = self.scenario.pipeline.keyring.open(
                        row["key_id"], row[column], row["user_id"]
                    )
                    self.secrets[f"{column} {len(self.secrets)}"] = opened

    def found_in(self, said: str) -> list[str]:
        """The names of the secrets that a text gives away."""
        return [name for name, secret in self.secrets.items() if secret in said]


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """DEBUG for all, SQL with its parameters and rows included; nothing scrubs what is logged."""
    factory = logging.getLogRecordFactory()
    logging.setLogRecordFactory(logging.LogRecord)
    caplog.set_level(logging.DEBUG)
    names = ("sqlalchemy.engine", "sqlalchemy.pool", "urllib3", "psycopg", "spotify_pipeline")
    for name in names:
        caplog.set_level(logging.DEBUG, logger=name)
    yield caplog
    logging.setLogRecordFactory(factory)


def tables_of(scenario: Scenario) -> str:
    """Every row of every table as text."""
    with scenario.pipeline.engine.connect() as conn:
        names = [table.fullname for table in t.metadata.sorted_tables]
        return "\n".join(
            str(row)
            for name in names
            for row in conn.execute(text(f"SELECT x::text FROM {name} x"))
        )


def test_no_secret_is_in_logs_errors_or_tables_whatever_fails(
    everything_logged: pytest.LogCaptureFixture,
    environ: dict[str, str],
    open_another: Callable[..., Scenario],
) -> None:
    hook = {
        "SPOTIFY_PIPELINE_REVALIDATE_URL": "http://127.0.0.1:9/hook",
        "SPOTIFY_PIPELINE_REVALIDATE_SECRET": HOOK_SECRET,
    }
    scenario = open_another(**hook)
    canaries = Canaries(scenario, environ)
    for user_id in ("anna", "ben", "cleo", "dora"):
        scenario.connect(user_id, kind="light")
    canaries.note_tokens()
    simulator = scenario.simulator
    simulator.add_fault(RotateRefreshToken(), user_id="ben")
    scenario.sync("anna", "ben", "cleo", "dora")
    canaries.note_tokens()
    assert len(canaries.secrets) >= 3 + 4 + 8

    # Refusals of every kind, and answers that repeat what they were asked with.
    echo = " ".join(canaries.secrets.values())
    simulator.add_fault(Body(text=echo), endpoint="recently_played", user_id="anna")
    simulator.add_fault(Body(text=echo, status=404), endpoint="top_artists", user_id="anna")
    simulator.add_fault(Body(text=echo, status=403), endpoint="recently_played", user_id="ben")
    simulator.add_fault(Body(text=echo, status=400), endpoint="token", user_id="ben")
    simulator.add_fault(AccessTokenExpired(), endpoint="top_artists", user_id="ben")
    simulator.add_fault(ServerError(), endpoint="top_tracks", user_id="anna")
    simulator.revoke("cleo")
    # Rows that stand as they are would not be written again.
    scenario.execute("DELETE FROM spotify_pipeline.top_list_artists WHERE user_id = 'dora'")
    scenario.execute(
        "ALTER TABLE spotify_pipeline.top_list_artists ADD CHECK (user_id <> 'dora') NOT VALID"
    )
    with scenario.pipeline.engine.begin() as conn:
        for user_id in ("anna", "ben", "cleo", "dora"):
            conn.execute(
                text("INSERT INTO spotify_pipeline.sync_requests (user_id) VALUES (:u)"),
                {"u": user_id},
            )
        conn.execute(text("UPDATE spotify_pipeline.sync_requests SET dispatch_key = 'key'"))
    said: list[str] = []
    for outcome in answer_requests(scenario.pipeline, "key", "run"):
        said.append(repr(outcome))  # its messages included
        assert outcome.result == "failed"
    canaries.note_tokens()

    log = "\n".join(
        f"{record.getMessage()} {record.args!r} {record.exc_text}"
        for record in everything_logged.records
    )
    assert "POST /api/token" in log
    assert "UPDATE spotify_pipeline.user_tokens" in log
    assert canaries.found_in(log + everything_logged.text) == []
    assert canaries.found_in(" ".join(said)) == []
    assert canaries.found_in(tables_of(scenario)) == []
    assert canaries.found_in(repr(scenario.pipeline) + str(scenario.pipeline.settings)) == []


def test_a_statement_that_fails_does_not_show_what_it_was_to_store(
    scenario: Scenario, caplog: pytest.LogCaptureFixture
) -> None:
    """The pipeline's own writes, with a database that refuses tokens."""
    info = scenario.connect("anna", kind="light")
    scenario.execute(
        "ALTER TABLE spotify_pipeline.user_tokens ADD CHECK (last_refreshed_at IS NULL) NOT VALID"
    )
    (outcome,) = scenario.sync("anna")
    assert outcome.error_code == "INTERNAL"
    assert "CheckViolation" in caplog.text
    for secret in (info.refresh_token, scenario.simulator.client_secret):
        assert secret not in caplog.text + repr(outcome)
