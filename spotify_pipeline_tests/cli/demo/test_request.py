"""The demo presses Sync twice and follows the operator's cooldown."""

from collections.abc import Callable
from typing import Any, cast

import pytest
from sqlalchemy import Connection, Engine, select, text, update

from spotify_pipeline.cli.demo.command import press_sync
from spotify_pipeline.cli.local.dagster_processes import Stack
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.storage.rows import add_user


class WorkingStack:
    """Answers each request at once, as the sensor and its runs do."""

    url = "http://127.0.0.1:3000"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def wait(self, seconds: float, done: Callable[[], bool], what: str) -> None:
        with self._engine.begin() as conn:
            conn.execute(
                update(t.sync_requests)
                .where(t.sync_requests.c.status == "queued")
                .values(status="succeeded")
            )
        assert done()


@pytest.mark.parametrize(
    ("cooldown", "said", "requests"),
    [
        ("0", "pressed again, accepted: the setting request_cooldown asks for no wait", 2),
        ("1 hour", "pressed again at once, refused: You synced a short while ago.", 1),
    ],
)
def test_the_demo_presses_sync_twice_and_follows_the_cooldown(
    engine: Engine,
    connection: Connection,
    capsys: pytest.CaptureFixture[str],
    cooldown: str,
    said: str,
    requests: int,
) -> None:
    add_user(connection)
    connection.execute(
        text("UPDATE spotify_pipeline.settings SET request_cooldown = CAST(:c AS interval)"),
        {"c": cooldown},
    )
    press_sync(engine, cast(Stack, cast(Any, WorkingStack(engine))), ["ada"])
    assert said in capsys.readouterr().out
    statuses = connection.scalars(select(t.sync_requests.c.status)).all()
    assert statuses == ["succeeded"] * requests
