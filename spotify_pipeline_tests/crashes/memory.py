"""Syncs once in a new process, then prints its peak memory.

    python -m spotify_pipeline_tests.crashes.memory INSTANT USER...

Needs exec: a forked process inherits its parent's pages, and its peak in ru_maxrss.
"""

import json
import sys
from datetime import datetime
from pathlib import Path

from spotify_pipeline.settings import load_settings
from spotify_pipeline.sync.pipeline import open_pipeline
from spotify_pipeline.sync.users import sync_users


def main(instant: str, *user_ids: str) -> None:
    """Prints the code of each user and the peak of resident memory, in MB."""
    now = datetime.fromisoformat(instant)
    with open_pipeline(load_settings(), lambda: now) as pipeline:
        before = peak_mb()
        outcomes = sync_users(pipeline, user_ids)
    codes = {outcome.user_id: outcome.error_code for outcome in outcomes}
    print(json.dumps({"codes": codes, "before_mb": before, "peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Peak resident memory of this process. Linux only."""
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kilobytes) * 1024 / 1e6


if __name__ == "__main__":
    main(*sys.argv[1:])
