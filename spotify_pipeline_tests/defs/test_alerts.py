"""The sensor of alerts counts Dagster's failed runs."""

import json

import dagster as dg
import pytest

from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.defs.sensors import alert_sensor
from spotify_pipeline_tests.spotify.server import ScriptedServer, answer
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario


@dg.op
def broken() -> None:
    raise dg.Failure("on purpose", allow_retries=False)


@dg.job
def failing() -> None:
    broken()


def tick(instance: dg.DagsterInstance) -> str | None:
    resources = {"pipeline": PipelineResource()}
    with dg.build_sensor_context(instance=instance, resources=resources) as context:
        said = alert_sensor(context)
    assert isinstance(said, dg.SkipReason)
    return said.skip_message


def test_failed_runs_are_alerted_once_with_their_count(
    scenario: Scenario, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tick(instance) == "SPOTIFY_PIPELINE_ALERT_URL is not set."
    operator = ScriptedServer([answer(204)])
    monkeypatch.setenv("SPOTIFY_PIPELINE_ALERT_URL", f"{operator.url}/hook")
    assert tick(instance) == "Nothing is wrong."
    for _ in range(2):
        failing.execute_in_process(instance=instance, raise_on_error=False)
    assert tick(instance) == "Alerted of 2 run_failed."
    assert tick(instance) == "Nothing is wrong."
    (call,) = operator.seen
    assert json.loads(call.body)["count"] == 2
    operator.close()
