"""`python -m spotify_pipeline.simulator`: a local Spotify in the foreground."""

import argparse
import datetime as dt
import json

from spotify_pipeline.simulator.faults.kinds import KINDS
from spotify_pipeline.simulator.music.oddities import Oddities
from spotify_pipeline.simulator.server import StartConditions, serve
from spotify_pipeline.simulator.state import SimulatorState


def main() -> None:
    """Reads the arguments and serves until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m spotify_pipeline.simulator", description=__doc__
    )
    parser.add_argument("--port", type=int, default=8765, help="0: any free port")
    parser.add_argument("--listeners", type=int, default=5, help="how many synthetic listeners")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same plays")
    parser.add_argument(
        "--now", type=dt.datetime.fromisoformat, help="stop the clock at this instant (with offset)"
    )
    parser.add_argument(
        "--fault", action="append", default=[], help=f"JSON, or one of {', '.join(KINDS)}"
    )
    parser.add_argument("--calls-per-30s", type=int, help="Spotify's rate limit (default: none)")
    parser.add_argument("--calls-per-day", type=int, help="Spotify's quota (default: none)")
    parser.add_argument(
        "--longest-delay", type=float, default=0, help="seconds until the latest play appears"
    )
    parser.add_argument(
        "--oddities",
        type=oddities,
        default=Oddities(),
        help='of every feed: JSON such as {"vanishing": 0.1}, or everything',
    )
    parser.add_argument(
        "--child", action="store_true", help="print one line of JSON; exit when stdin ends"
    )
    options = parser.parse_args()
    if options.now is not None and options.now.tzinfo is None:
        parser.error("--now needs an offset, for example 2026-03-01T00:00:00Z")
    conditions = StartConditions(
        tuple(options.fault),
        options.calls_per_30s,
        options.calls_per_day,
        dt.timedelta(seconds=options.longest_delay),
        options.oddities,
    )
    try:
        serve(
            options.port,
            options.listeners,
            options.seed,
            options.now,
            conditions=conditions,
            exit_with_stdin=options.child,
            announce=announce_json if options.child else announce_text,
        )
    except (OSError, ValueError) as wrong:
        parser.error(str(wrong))


def oddities(text: str) -> Oddities:
    """Parses the argument `--oddities`."""
    if text == "everything":
        return Oddities.everything()
    try:
        return Oddities.from_json(json.loads(text))
    except (AttributeError, KeyError, TypeError, ValueError) as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from None


def announce_json(url: str, state: SimulatorState) -> None:
    """Prints the address as one line of JSON for the parent process."""
    print(json.dumps({"url": url}), flush=True)


def announce_text(url: str, state: SimulatorState) -> None:
    """Prints the environment variables for the pipeline, and every listener's refresh token."""
    print(f"A local Spotify at {url} with {len(state.accounts)} synthetic listeners.\n")
    for name, text in state.environment(url).items():
        print(f"export {name}={text}")
    print("\nRefresh tokens (for spotify-pipeline users add USER_ID --refresh-token-stdin):")
    for account in state.accounts.values():
        print(f"{account.user_id}\t{account.listener.timezone}\t{account.refresh_token}")
    print("\nStop with Ctrl-C.", flush=True)


if __name__ == "__main__":
    main()
