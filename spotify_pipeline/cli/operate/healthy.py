"""`spotify-pipeline healthy`: what systemd, compose and probes call.

Imports neither Dagster nor pandas, because it is called every half minute.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType

import click

from spotify_pipeline.cli.errors import explain
from spotify_pipeline.errors import WorkFailed
from spotify_pipeline.settings import Settings, load_settings
from spotify_pipeline.storage.checks import life
from spotify_pipeline.storage.checks.life import Sign
from spotify_pipeline.storage.postgres.database import dagster_url, is_running, pipeline_url
from spotify_pipeline.storage.postgres.engine import PORTABLE, SESSION, make_engine
from spotify_pipeline.storage.postgres.schema import check_revision
from spotify_pipeline.storage.postgres.types import Connection
from spotify_pipeline.storage.work.api_budget import quota_of
from spotify_pipeline.terminal import example, print_json, printable

# For each database, of which there are two; a connection without an answer takes 10 of them.
SECONDS = 20
CONNECT_SECONDS = "10"

Question = Callable[[Connection, Settings], Sign]
_OURS: dict[str, Question] = {
    "database": lambda conn, _: life.database(conn),
    "polls": lambda conn, settings: life.polls(conn, quota_of(settings)),
    "requests": lambda conn, _: life.requests(conn),
}
_DAGSTERS: dict[str, Question] = {"daemon": lambda conn, _: life.daemon(conn)}
PARTS = (*_OURS, *_DAGSTERS)


@click.command(
    epilog=example("spotify-pipeline healthy", "spotify-pipeline healthy --only daemon --json")
)
@click.option(
    "--only", "parts", multiple=True, type=click.Choice(PARTS), help="Only this; may be repeated."
)
@click.option("--json", "as_json", is_flag=True, help="A list of objects: part, stale, sentence.")
def healthy(parts: Sequence[str], as_json: bool) -> None:
    """Say whether the pipeline lives, and exit 1 if it does not.

    Looks at the database, the heartbeat of Dagster's daemon (60 seconds old at most), the last
    poll (an hour, while users are due) and the oldest waiting request (5 minutes). Waiting for
    Spotify is healthy. Takes a second, and 40 when no database answers. For containers, systemd and
    probes; `doctor` says what to do.
    """
    settings, asked = load_settings(), parts or PARTS
    found = [
        sign
        for questions in (_OURS, _DAGSTERS)
        for sign in _look(settings, {name: questions[name] for name in questions if name in asked})
    ]
    if as_json:
        print_json([asdict(sign) for sign in found])
    else:
        for sign in found:
            click.echo(
                printable(f"{'stale' if sign.stale else 'ok':<6} {sign.part}: {sign.sentence}")
            )
    if stale := [sign.part for sign in found if sign.stale]:
        raise WorkFailed(f"Not healthy: {', '.join(stale)}. `spotify-pipeline doctor` says why.")


def _look(settings: Settings, questions: dict[str, Question]) -> Iterator[Sign]:
    """The answers of one database, ours or Dagster's; stale when it does not give them."""
    ours = "daemon" not in questions
    try:
        if questions:
            with _within(SECONDS), _connection(settings, ours) as conn:
                yield from [ask(conn, settings) for ask in questions.values()]
    except Exception as error:
        yield Sign("database" if ours else "daemon", True, explain(error)[0])


@contextmanager
def _connection(settings: Settings, ours: bool) -> Iterator[Connection]:
    if not is_running(settings):
        raise WorkFailed("The embedded Postgres does not run.")
    url = (pipeline_url if ours else dagster_url)(settings)
    if "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": CONNECT_SECONDS})
    engine = make_engine(url, pool_size=1, settings=SESSION if ours else PORTABLE)
    try:
        if ours:
            check_revision(engine)
        with engine.connect() as conn:
            yield conn
    finally:
        engine.dispose()


@contextmanager
def _within(seconds: int) -> Iterator[None]:
    """Raises WorkFailed in the main thread when the block takes longer."""

    def end(number: int, frame: FrameType | None) -> None:
        raise WorkFailed(f"It gave no answer within {seconds} seconds.")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
