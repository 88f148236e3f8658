"""R14: an answer without an end is cut off, however large it would be."""

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
from spotify_pipeline_tests.crashes.crash_scenario import World

ROOT = Path(__file__).parents[2]
MOST_MB = 250


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_worker_fed_a_huge_body_stays_small(
    world: World, scale: Scale, figure: Callable[[str], None]
) -> None:
    for number, user_id in enumerate(world.zones):
        # Half of them plain, half of them as a bomb of one thousandth of its size.
        huge = HugeBody(scale.megabytes, compressed=number % 2 == 1)
        world.scenario.simulator.add_fault(huge, user_id=user_id, endpoint="recently_played")
    started = monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "spotify_pipeline_tests.crashes.memory"),
            *(world.now.isoformat(), *world.zones),
        ],
        env={**os.environ, **world.environ},
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    took = monotonic() - started
    told = json.loads(done.stdout)
    figure(
        f"fed bodies of {scale.megabytes} MB for {len(world.zones)} people at once, a worker "
        f"peaked at {told['peak_mb']:.0f} MB ({told['before_mb']:.0f} MB before), {took:.1f} s"
    )
    assert told["codes"] == dict.fromkeys(world.zones, "BAD_RESPONSE")
    assert told["peak_mb"] < MOST_MB
