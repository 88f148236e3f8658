"""The rolling window accepts calls again as the oldest leave it."""

import pytest

from spotify_pipeline.simulator.http.responses import Refusal
from spotify_pipeline.simulator.state import Limits


def allowed(limits: Limits) -> bool:
    try:
        limits.check()
    except Refusal:
        return False
    return True


def test_a_call_stops_counting_after_30_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    limits = Limits(calls_per_30s=2)
    assert allowed(limits)
    now[0] = 110.0
    assert allowed(limits)
    now[0] = 129.5
    with pytest.raises(Refusal) as refused:
        limits.check()
    assert refused.value.headers == {"Retry-After": "1"}
    now[0] = 130.0
    assert [allowed(limits), allowed(limits)] == [True, False]
    now[0] = 140.0
    assert [allowed(limits), allowed(limits)] == [True, False]
