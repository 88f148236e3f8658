"""Responses that hang, break or are refused delay other users at most by the time-outs."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from time import monotonic

import pytest

from spotify_pipeline.domain.outcome import FETCHED
from spotify_pipeline.simulator.faults.base import Fault
from spotify_pipeline.simulator.faults.refusals import Latency, ServerError
from spotify_pipeline.simulator.faults.wire import ConnectionReset, NoAnswer, SlowLoris, Truncated
from spotify_pipeline.spotify.client import SpotifyApi
from spotify_pipeline.spotify.http import Limits, Transport
from spotify_pipeline.spotify.oauth import OAuthClient
from spotify_pipeline_tests.crashes.crash_scenario import CrashScenario
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

# The production values divided by twenty.
LIMITS = Limits(connect_seconds=1.0, read_seconds=0.6, try_seconds=1.0, total_seconds=1.4, tries=4)
# Maximum time of a user's calls if each uses its whole time-out.
WORST_SECONDS = len(FETCHED) * LIMITS.total_seconds
# Tolerance for a busy machine.
BUSY_SECONDS = 5.0

FAULTS: dict[str, Fault] = {
    "silent": Latency(seconds=60),
    "dripping header": SlowLoris(pause_seconds=0.05, part="header"),
    "dripping body": SlowLoris(pause_seconds=0.05, part="body"),
    "reset": ConnectionReset(),
    "closed": NoAnswer(),
    "truncated": Truncated(),
    "refused": ServerError(503),
}


@pytest.fixture
def impatient(case: CrashScenario) -> Iterator[Scenario]:
    """The pipeline with short time-outs, and more users, all synced once."""
    for user_id in FAULTS:
        case.scenario.connect(user_id, kind="light")
    case.scenario.sync_well(*case.zones, *FAULTS)
    pipeline, simulator = case.scenario.pipeline, case.scenario.simulator
    settings = pipeline.settings
    transport = Transport(
        rate_limiter=pipeline.rate_limiter, connections=settings.connections, limits=LIMITS
    )
    api = SpotifyApi(settings.api_url, transport)
    oauth = OAuthClient(
        settings.accounts_url, simulator.client_id, simulator.client_secret, transport
    )
    yield replace(case.scenario, pipeline=replace(pipeline, api=api, oauth=oauth))
    transport.close()


def test_broken_responses_delay_other_users_by_no_more_than_the_time_outs(
    case: CrashScenario, impatient: Scenario, figure: Callable[[str], None]
) -> None:
    started = monotonic()
    # With production time-outs, because a busy machine sometimes answers late.
    undisturbed = case.scenario.sync_well(*case.zones, *FAULTS)
    alone = monotonic() - started
    for user_id, fault in FAULTS.items():
        impatient.simulator.add_fault(fault, user_id=user_id)
    started = monotonic()
    outcomes = {outcome.user_id: outcome for outcome in impatient.sync(*case.zones, *FAULTS)}
    took = monotonic() - started
    slowest_alone = max(outcome.seconds for outcome in undisturbed)
    seconds = {user_id: outcome.seconds for user_id, outcome in outcomes.items()}
    slowest = max(seconds[user_id] for user_id in FAULTS)
    healthy = max(seconds[user_id] for user_id in case.zones)
    figure(
        f"{len(FAULTS)} users whose responses hang, drip, break or are refused took "
        f"{slowest:.1f} s at most (limit {WORST_SECONDS:.1f} s), the calls of the healthy "
        f"{healthy:.1f} s (else {slowest_alone:.1f} s), the whole set {took:.1f} s (else "
        f"{alone:.1f} s)"
    )
    assert {outcomes[user_id].result for user_id in FAULTS} == {"failed"}
    assert {outcomes[user_id].result for user_id in case.zones} == {"synced"}
    assert slowest <= WORST_SECONDS + BUSY_SECONDS
    assert healthy <= WORST_SECONDS / 2 + alone
    # In sequence they would take five times as long.
    assert took <= slowest + alone + BUSY_SECONDS
