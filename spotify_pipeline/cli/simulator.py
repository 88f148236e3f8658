"""`spotify-pipeline simulator`: a local Spotify in the foreground."""

import shlex
from typing import TYPE_CHECKING

import click

from spotify_pipeline.errors import UsageError
from spotify_pipeline.terminal import count, example

if TYPE_CHECKING:
    from spotify_pipeline.simulator.accounts import Account


@click.command(epilog=example("spotify-pipeline simulator --port 8765 --listeners 5 --seed 1"))
@click.option(
    "--port",
    default=8765,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="On 127.0.0.1; 0: any free one.",
)
@click.option(
    "--listeners",
    default=5,
    show_default=True,
    type=click.IntRange(0, 100_000),
    help="How many synthetic listeners.",
)
@click.option(
    "--seed", default=1, show_default=True, help="The same seed gives the same plays and tokens."
)
def simulator(port: int, listeners: int, seed: int) -> None:
    """Serve a local Spotify with synthetic listeners.

    Prints what to export and a command per listener that adds them, then runs until Ctrl-C. The
    tokens open nothing but this simulator.
    """
    from spotify_pipeline.simulator.server import serve
    from spotify_pipeline.simulator.state import SimulatorState, pipeline_environment

    state = SimulatorState(seed, listeners)

    def announce(url: str) -> None:
        environment = pipeline_environment(url, state.tokens.client_id, state.tokens.client_secret)
        who = count(listeners, "synthetic listener")
        click.echo(f"# A local Spotify at {url} with {who}. Ctrl-C stops it.")
        click.echo("# In another terminal:")
        for name, value in environment.items():
            click.echo(f"export {name}={shlex.quote(value)}")
        for account in state.accounts.values():
            click.echo(_add_line(account))

    try:
        serve(state, port, announce)
    except OSError as error:
        raise UsageError(
            f"Port {port} cannot be used ({error.strerror}): choose another with --port."
        ) from None


def _add_line(account: "Account") -> str:
    words = ["spotify-pipeline", "users", "add", account.user_id]
    words += ["--timezone", account.listener.timezone]
    words += ["--display-name", account.display_name] if account.display_name else []
    words += ["--refresh-token-stdin"]
    return f"printf %s {shlex.quote(account.refresh_token)} | {shlex.join(words)}"
