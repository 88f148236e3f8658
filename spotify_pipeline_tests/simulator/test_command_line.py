"""`python -m spotify_pipeline.simulator`: its options and error messages."""

import subprocess
import sys

COMMAND = [sys.executable, "-m", "spotify_pipeline.simulator"]


def test_an_instant_without_an_offset_ends_with_a_sentence() -> None:
    command = [*COMMAND, "--now=2026-01-01T00:00:00"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--now needs an offset" in done.stderr
    assert "Traceback" not in done.stderr
