"""A process that calls Spotify without pause, as fast as the shared budget lets it.

Reads a JSON order {database, spotify, token, calls, window}, says "ready", waits for a line, and
calls with four threads until each is refused. Says the codes of the refusals.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from spotify_pipeline.domain.quota import Quota
from spotify_pipeline.spotify.client import SpotifyApi
from spotify_pipeline.spotify.errors import SpotifyError
from spotify_pipeline.spotify.http import Transport
from spotify_pipeline.storage.postgres.engine import make_engine
from spotify_pipeline.sync.rate_limiter import SharedRateLimiter

THREADS = 4


def main() -> None:
    order = json.loads(sys.stdin.readline())
    engine = make_engine(order["database"])
    rate_limiter = SharedRateLimiter(engine, Quota(order["calls"], 0, order["window"]))
    api = SpotifyApi(order["spotify"], Transport(rate_limiter=rate_limiter))

    def call_until_refused(_: int) -> str:
        while True:
            try:
                api.profile(order["token"])
            except SpotifyError as error:
                return error.code

    print("ready", flush=True)
    sys.stdin.readline()
    with ThreadPoolExecutor(THREADS) as pool:
        codes = set(pool.map(call_until_refused, range(THREADS)))
    print(json.dumps(sorted(codes)), flush=True)


if __name__ == "__main__":
    main()
