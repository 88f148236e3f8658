"""Everything a sync needs, opened once per process and handed to the use cases."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime

from spotify_pipeline.domain.due import CLOCKS_MAY_DIFFER
from spotify_pipeline.domain.sealing import Keyring
from spotify_pipeline.errors import UsageError
from spotify_pipeline.settings import Settings
from spotify_pipeline.spotify.client import SpotifyApi
from spotify_pipeline.spotify.http import Transport
from spotify_pipeline.spotify.oauth import OAuthClient
from spotify_pipeline.storage.postgres.database import open_engine
from spotify_pipeline.storage.postgres.engine import database_now
from spotify_pipeline.storage.postgres.notifications import await_notification, listening
from spotify_pipeline.storage.postgres.schema import check_revision, current_revision, init_db
from spotify_pipeline.storage.postgres.types import Connection, Engine
from spotify_pipeline.storage.work.api_budget import quota_of
from spotify_pipeline.sync.admin.keys import load_keyring, publish_key
from spotify_pipeline.sync.rate_limiter import SharedRateLimiter

LOOK_SECONDS = 0.2
# Beside notifications: time alone makes a request due, and at its end a process stops waiting.
LISTENING_SECONDS = 0.5


class ClockIsWrong(UsageError):
    """This machine's clock and the database's differ by more than a minute; says what to do."""


def utc_now() -> datetime:
    """The real clock, aware, in UTC."""
    return datetime.now(UTC)


def check_clock(engine: Engine) -> None:
    """Raises ClockIsWrong when the real clock is more than a minute from the database's.

    A wrong clock would stamp facts with instants of the future: users would not be due until then,
    and days that have not happened yet would count as covered.
    """
    before = utc_now()
    with engine.connect() as conn:
        of_database = database_now(conn)
    if not before - CLOCKS_MAY_DIFFER <= of_database <= utc_now() + CLOCKS_MAY_DIFFER:
        raise ClockIsWrong(
            f"The clock of this machine says {before:%Y-%m-%d %H:%M:%S} UTC and the database's "
            f"{of_database.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC: nothing was written. Set both "
            "clocks (NTP keeps them right), then run it again."
        )


@dataclass(frozen=True)
class Pipeline:
    """Postgres, Spotify and its rate limiter, keys and clocks.

    `now` stamps facts (fetched_at, days, personality, due times); the demo and tests set it.
    Leases, queue, cooldowns and token expiry use the database's clock instead.
    """

    engine: Engine
    settings: Settings
    keyring: Keyring
    api: SpotifyApi
    oauth: OAuthClient
    rate_limiter: SharedRateLimiter
    now: Callable[[], datetime] = utc_now
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic

    def check_clock(self) -> None:
        """As `check_clock`, unless the demo or a test has set the clock."""
        if self.now is utc_now:
            check_clock(self.engine)

    def wait_for(
        self, there: Callable[[Connection], object], seconds: float, *, notified: bool = False
    ) -> None:
        """Return when the query finds something, or after so many seconds.

        `notified`: it looks for what notify_work() in SQL notifies of.
        """
        deadline = self.monotonic() + seconds
        # Otherwise a transaction would stay open all the time.
        engine = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as conn, listening(conn) if notified else nullcontext() as listens:
            while not there(conn) and self.monotonic() < deadline:
                if listens:
                    await_notification(conn, LISTENING_SECONDS)
                else:
                    self.sleep(LOOK_SECONDS)


@contextmanager
def open_pipeline(settings: Settings, now: Callable[[], datetime] = utc_now) -> Iterator[Pipeline]:
    """Connect, check the schema's revision and the clock, load the keys.

    Raises ConfigurationError, SchemaOutdated, ClockIsWrong or sqlalchemy.exc.OperationalError.
    """
    engine = open_engine(settings)
    try:
        if settings.database_url is None and current_revision(engine) is None:
            # The embedded database is the pipeline's alone: a first `dagster dev` just works.
            init_db(engine)
        check_revision(engine)
        rate_limiter = SharedRateLimiter(engine, quota_of(settings))
        transport = Transport(rate_limiter=rate_limiter, connections=settings.connections)
        pipeline = Pipeline(
            engine=engine,
            settings=settings,
            keyring=load_keyring(settings, engine),
            api=SpotifyApi(settings.api_url, transport),
            oauth=oauth_client(settings, transport),
            rate_limiter=rate_limiter,
            now=now,
        )
        pipeline.check_clock()
        publish_key(engine, pipeline.keyring)
        yield pipeline
    finally:
        engine.dispose()


def oauth_client(settings: Settings, transport: Transport) -> OAuthClient:
    """The client of the configured app; a transport without the rate limiter blocks no sync."""
    secret = settings.spotify_client_secret
    return OAuthClient(
        settings.accounts_url,
        settings.spotify_client_id or "",
        secret.get_secret_value() if secret else None,
        transport,
    )
