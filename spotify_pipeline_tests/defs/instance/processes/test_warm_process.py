"""How a run starts: forked with TLS of its own, or spawned once the code has changed."""

import subprocess
import sys
from pathlib import Path

import pytest

from spotify_pipeline.defs.instance.processes.warm_process import RunStarter, code_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")


def test_once_the_code_has_changed_runs_are_spawned(tmp_path: Path) -> None:
    module = tmp_path / "assets.py"
    module.write_text("A = 1\n")
    starter = RunStarter(tmp_path, code_of(tmp_path))
    assert starter.context().get_start_method() == "forkserver"
    module.write_text("A = 22\n")
    assert starter.context().get_start_method() == "spawn"
    # A new code server has the new code.
    assert RunStarter(tmp_path, code_of(tmp_path)).context().get_start_method() == "forkserver"


def test_two_forked_processes_speak_tls_with_keys_of_their_own() -> None:
    """Two processes with one state of the random generator would send the same nonce."""
    done = subprocess.run(
        [sys.executable, "-m", f"{__package__}.tls_after_fork"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split()
    assert len(first) == len(second) == 64
    assert first != second


def test_two_forked_processes_hash_a_password_with_salts_of_their_own() -> None:
    """The warm process has set up psycopg's OpenSSL, and with it a random generator."""
    program = """
import os, psycopg
from spotify_pipeline.defs.instance.processes import preloaded
assert preloaded._no_connection
for _ in range(2):
    if os.fork() == 0:
        nowhere = psycopg.pq.PGconn.connect_start(b"host=/nowhere")
        print(nowhere.encrypt_password(b"p", b"u", b"scram-sha-256").decode(), flush=True)
        os._exit(0)
    os.wait()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=True
    )
    assert len(set(done.stdout.split())) == 2
