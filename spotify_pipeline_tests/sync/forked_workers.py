"""Processes that sync, and may kill themselves in the middle of it.

Importing Python and pandas takes a second or two. So one process imports them once, reads jobs from
its standard input, and forks a process for each.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from threading import Lock
from typing import Any, NoReturn

from sqlalchemy import Engine, event

from spotify_pipeline.settings import load_settings
from spotify_pipeline.sync.pipeline import open_pipeline
from spotify_pipeline.sync.users import sync_users


class ForkedWorkers:
    """Runs jobs in forked processes: {users, now, steps?, wait?, rounds?, die_at?}.

    `die_at`: the process kills itself before it sends Postgres the statement (or commit) of that
    number, the first being 1.
    """

    def __enter__(self) -> "ForkedWorkers":
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # ends when its input ends
        assert self._process.returncode == 0

    def run(
        self, environ: Mapping[str, str], jobs: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Starts all jobs at once; returns how each ended: {signal}, or {results, statements}.

        `results` are pairs of user and result; `statements` is how many were sent.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = {"environ": environ, "jobs": jobs}
        self._process.stdin.write(json.dumps(line, default=datetime.isoformat) + "\n")
        self._process.stdin.flush()
        ends: list[dict[str, Any]] = json.loads(self._process.stdout.readline())
        return ends


def main() -> None:
    """Reads a line of jobs, writes a line of their outcomes."""
    for line in sys.stdin:
        asked = json.loads(line)
        children = [_fork(asked["environ"], job) for job in asked["jobs"]]
        print(json.dumps([_end(*child) for child in children]), flush=True)


def _fork(environ: Mapping[str, str], job: Mapping[str, Any]) -> tuple[int, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(environ, job, writing)
    os.close(writing)
    return pid, reading


def _child(environ: Mapping[str, str], job: Mapping[str, Any], writing: int) -> NoReturn:
    code = 1
    try:
        statements = _count_statements(job.get("die_at"))
        said = {"results": _sync(environ, job), "statements": statements[0]}
        os.write(writing, json.dumps(said).encode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _end(pid: int, reading: int) -> dict[str, Any]:
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return json.loads(said) if code == 0 else {"signal": -code}


def _sync(environ: Mapping[str, str], job: Mapping[str, Any]) -> list[tuple[str, str]]:
    now = datetime.fromisoformat(job["now"])
    options = {"steps": job["steps"]} if "steps" in job else {}
    with open_pipeline(load_settings(environ), lambda: now) as pipeline:
        return [
            (outcome.user_id, outcome.result)
            for _ in range(job.get("rounds", 1))
            for outcome in sync_users(
                pipeline, job["users"], wait_seconds=job.get("wait", 0), **options
            )
        ]


def _count_statements(die_at: int | None) -> list[int]:
    """Counts the statements from now on; SIGKILL at number `die_at`."""
    sent = [0]
    lock = Lock()

    def sending(*_: object) -> None:
        with lock:
            sent[0] += 1
            if sent[0] == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", sending)
    event.listen(Engine, "commit", sending)
    return sent


if __name__ == "__main__":
    main()
