"""R2: Postgres dies in the middle of syncs; nothing is lost, and the same worker goes on."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

from spotify_pipeline.domain.sealing import new_key
from spotify_pipeline.storage import embedded
from spotify_pipeline.storage.engine import make_engine
from spotify_pipeline.storage.schema import init_db
from spotify_pipeline_tests.crashes.books import compare
from spotify_pipeline_tests.crashes.conftest import Scale
from spotify_pipeline_tests.crashes.killing import kill_postgres_again_and_again
from spotify_pipeline_tests.crashes.world import open_world


def test_nothing_is_lost_or_doubled_when_postgres_is_killed_in_the_middle_of_syncs(
    tmp_path: Path, scale: Scale, seed: int, rng: Random, figure: Callable[[str], None]
) -> None:
    home = tmp_path / "home"

    def kill() -> None:
        server = embedded.running_server(home)
        assert server is not None
        os.kill(server.pid, signal.SIGKILL)

    with embedded.start(home) as server:
        engine = make_engine(server.url())
        init_db(engine)
        engine.dispose()
        environ = {
            "SPOTIFY_PIPELINE_HOME": str(home),
            "SPOTIFY_PIPELINE_TOKEN_KEYS": new_key()[1],
        }
        with open_world(environ, seed) as world:
            tally = kill_postgres_again_and_again(world, kill, scale.postgres_kills, rng)
            found = compare(world)
    failed = sum(tally.said.values())
    figure(
        f"{tally.blows} kills of Postgres ({tally.unfinished} in the middle of a sync, {failed} of "
        f"which failed cleanly, the others went on): {found}"
    )
    assert found.clean, found
    assert tally.half_written == []
    assert tally.unfinished > 0, tally
    # One sentence for the operator each time.
    assert {words[-1] for words in tally.said} <= {"."}, tally.said
