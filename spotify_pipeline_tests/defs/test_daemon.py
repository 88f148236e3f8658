"""With a real code server, webserver and daemon: a request, and one run per user."""

import dagster as dg
import pytest

from spotify_pipeline.simulator.faults.refusals import Latency
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.defs.staging import materialized
from spotify_pipeline_tests.defs.theatre import SECONDS, Theatre

pytestmark = pytest.mark.xdist_group("daemon")


def test_a_row_in_the_queue_is_served_and_shown_in_the_graph(theatre: Theatre) -> None:
    theatre.connect("anna")
    theatre.ask("anna")
    theatre.await_status("anna", "succeeded", "failed")
    request = theatre.request("anna")
    assert (request["status"], request["error_code"]) == ("succeeded", None)
    assert len(theatre.stage.rows(t.plays, "anna")) == 50
    theatre.stack.wait(SECONDS, lambda: theatre.runs("anna")[0].end_time is not None, "the run")
    (record,) = theatre.runs("anna")
    assert record.dagster_run.run_id == request["run_id"]
    assert record.dagster_run.tags["spotify/trigger"] == "request"
    assert {user_id for _, user_id in materialized(theatre.instance)} == {"anna"}
    assert "anna" in theatre.instance.get_dynamic_partitions("spotify_users")


def test_a_user_has_one_run_at_a_time(theatre: Theatre) -> None:
    theatre.connect("cleo")
    theatre.instance.add_dynamic_partitions("spotify_users", ["cleo"])
    theatre.stage.simulator.add_fault(Latency(1), endpoint="recently_played", user_id="cleo")
    ids = {theatre.launch("cleo") for _ in range(2)}
    theatre.stack.wait(
        SECONDS,
        lambda: all(record.end_time is not None for record in theatre.runs("cleo")),
        "two runs of Cleo",
    )
    first, second = sorted(theatre.runs("cleo"), key=lambda record: record.start_time or 0)
    assert {record.dagster_run.run_id for record in (first, second)} == ids
    assert {record.dagster_run.status for record in (first, second)} == {
        dg.DagsterRunStatus.SUCCESS
    }
    assert first.end_time is not None
    assert second.start_time is not None
    assert first.end_time <= second.start_time
