"""A full disk is named as the cause, whatever error Postgres reports."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# A file system of its own, for one process and its children only; root of a container may not.
MAY_MOUNT = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A directory for a file system of 200 MB that a test mounts in a mount namespace."""
    if subprocess.run(MAY_MOUNT, capture_output=True, check=False).returncode:
        pytest.skip("This user may not mount a file system.")
    folder = Path(tempfile.mkdtemp())
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


SCRIPT = """
mount -t tmpfs -o size=200m,mode=0755 none "$1"
export SPOTIFY_PIPELINE_HOME="$1/home"
program() { "$PYTHON" -m spotify_pipeline.cli.main "$@" 2>&1; echo "exit $?"; }
program init-db
# The server stops a moment after its last user; while it runs it may need no room.
until [ -z "$(find "$1/home" -name postmaster.pid)" ]; do sleep 0.1; done
dd if=/dev/zero of="$1/ballast" bs=1M 2>/dev/null
program users list
program doctor | grep -E "^problem +(home|database)"
rm "$1/ballast"
program init-db
"""


def test_the_full_disk_of_the_home_is_named_and_survived(small_disk: Path) -> None:
    full = f"The disk of {small_disk}/home/postgres is full: make room"
    printed = subprocess.run(
        ["unshare", "--mount", "bash", "-c", SCRIPT, "bash", small_disk],
        env={"PATH": os.environ["PATH"], "PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=False,
    ).stdout.splitlines()
    assert printed[1] == "exit 0"
    assert printed[2].startswith(f"Error: {full}")
    assert printed[3] == "exit 1"
    assert re.match(rf"problem  home: \d MB are free on the disk of {small_disk}/home", printed[4])
    assert printed[5].startswith(f"problem  database: {full.partition(': ')[0]}")
    assert printed[-1] == "exit 0"
