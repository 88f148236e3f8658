"""Four connected listeners at a simulated Spotify, and the successful syncs of workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from spotify_pipeline.simulator.music.oddities import Oddities
from spotify_pipeline.simulator.server import running_simulator
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.crashes.worker import Order, Report
from spotify_pipeline_tests.sync.pipeline_fixture import Dump, Scenario, open_scenario

# The evening before Oslo's clocks go forward: the test crosses local midnights and a 23-hour day.
START = datetime(2026, 3, 28, 18, tzinfo=UTC)
LISTENED_BEFORE = timedelta(days=14)
USERS = {
    "anna": ("Europe/Oslo", "heavy"),
    "ben": ("Asia/Tokyo", "night_owl"),
    "cleo": ("America/St_Johns", "heavy"),
    "dora": ("Pacific/Chatham", "explorer"),
}
# Maximum delay with which plays appear in the feed, in any order.
LONGEST_DELAY = timedelta(hours=2)
# All oddities except changed lengths: the ledger has only those of the first response.
ODDITIES = replace(Oddities.everything(START + timedelta(hours=20)), changes=())
UNLIMITED = {"SPOTIFY_PIPELINE_CALLS_PER_30S": "0", "SPOTIFY_PIPELINE_CALLS_PER_DAY": "0"}


@dataclass
class CrashScenario:
    """The pipeline under test, and the times of all reported syncs."""

    scenario: Scenario
    environ: dict[str, str]
    zones: dict[str, str]
    synced_at: dict[str, list[datetime]] = field(default_factory=dict)
    syncs: int = 0

    @property
    def now(self) -> datetime:
        """The simulated time, UTC."""
        return self.scenario.clock.instant

    def advance(self, step: timedelta) -> None:
        """Moves the clock ahead."""
        self.scenario.at(self.now + step)

    def order(self, wait_seconds: float = 0.0) -> Order:
        """An order to sync all users now."""
        return Order(self.now, tuple(self.zones), wait_seconds=wait_seconds)

    def personal_rows(self) -> Dump:
        """Every row of a user, by table, with the transaction that wrote it."""
        personal = {table.name for table in t.metadata.sorted_tables if "user_id" in table.c}
        dump = self.scenario.dump(versions=True)
        return {name: rows for name, rows in dump.items() if name in personal}

    def record(self, report: Report | None, at: datetime | None = None) -> None:
        """Records the successful syncs of a report: what Spotify showed then must be stored.

        They happened `at` the instant of their order (None: now).
        """
        self.syncs += bool(report and report.results)
        for user_id in report.synced if report else ():
            self.synced_at.setdefault(user_id, []).append(at or self.now)


@contextmanager
def open_crash_scenario(environ: dict[str, str], seed: int) -> Iterator[CrashScenario]:
    """A scenario at START with all users connected; `environ` has the database URL."""
    with running_simulator(now=START) as simulator:
        environ = {**environ, **simulator.environment, **UNLIMITED}
        with open_scenario(simulator, environ) as scenario:
            scenario.clock.instant = START
            for user_id, (zone, kind) in USERS.items():
                scenario.connect(
                    user_id,
                    zone,
                    kind=kind,
                    seed=seed,
                    since=(START - LISTENED_BEFORE).date(),
                    longest_delay=LONGEST_DELAY,
                    oddities=ODDITIES,
                )
            yield CrashScenario(
                scenario, environ, {user_id: zone for user_id, (zone, _) in USERS.items()}
            )
