"""`python -m spotify_pipeline.simulator`: a local Spotify as the child process of its user.

Prints its address as one line of JSON and ends with its standard input. `spotify-pipeline
simulator` is the one for a terminal.
"""

import argparse
import contextlib
import datetime as dt
import json
import os
from threading import Thread

from spotify_pipeline.simulator.server import serve
from spotify_pipeline.simulator.state import SimulatorState


def main() -> None:
    """Reads the arguments and serves until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m spotify_pipeline.simulator")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--listeners", type=int, default=0, help="how many synthetic listeners")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same plays")
    parser.add_argument(
        "--now", type=dt.datetime.fromisoformat, help="stop the clock at this instant (with offset)"
    )
    options = parser.parse_args()
    if options.now is not None and options.now.tzinfo is None:
        parser.error("--now needs an offset, for example 2026-03-01T00:00:00Z")
    state = SimulatorState(options.seed, options.listeners, options.now)
    Thread(target=_exit_at_end_of_input, daemon=True).start()
    try:
        serve(state, options.port, lambda url: print(json.dumps({"url": url}), flush=True))
    except OSError as wrong:
        parser.error(str(wrong))


def _exit_at_end_of_input() -> None:
    """Ends this process with its parent, also when that is killed."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(0)


if __name__ == "__main__":
    main()
