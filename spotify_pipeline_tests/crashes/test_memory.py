"""An endless response body is cut off, so it cannot exhaust memory."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

from spotify_pipeline.simulator.faults.wire import HugeBody
from spotify_pipeline_tests.crashes.conftest import Scale
from spotify_pipeline_tests.crashes.crash_scenario import CrashScenario

ROOT = Path(__file__).parents[2]
MOST_MB = 250


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_huge_response_bodies_do_not_use_much_memory(
    case: CrashScenario, scale: Scale, figure: Callable[[str], None]
) -> None:
    for number, user_id in enumerate(case.zones):
        # Half of them plain, half compressed to a thousandth of their size.
        huge = HugeBody(scale.megabytes, compressed=number % 2 == 1)
        case.scenario.simulator.add_fault(huge, user_id=user_id, endpoint="recently_played")
    started = monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "spotify_pipeline_tests.crashes.memory"),
            *(case.now.isoformat(), *case.zones),
        ],
        env={**os.environ, **case.environ},
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    took = monotonic() - started
    measured = json.loads(done.stdout)
    figure(
        f"fed bodies of {scale.megabytes} MB for {len(case.zones)} users at once, a worker "
        f"peaked at {measured['peak_mb']:.0f} MB ({measured['before_mb']:.0f} MB before), "
        f"{took:.1f} s"
    )
    assert measured["codes"] == dict.fromkeys(case.zones, "BAD_RESPONSE")
    assert measured["peak_mb"] < MOST_MB
