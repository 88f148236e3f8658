"""The error of estimated minutes compared with the minutes heard, for listeners who skip.

The API does not say how long a track was heard. Compares the full length, and the length capped by
the time since the previous play, for listeners who skip 10, 30 and 50 % of their tracks.

Then does the same through the database: a user of each kind whose plays the API has shown, also one
that leaves out tracks left early, imports the export of the same life.

    python -m benchmarks.estimates
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pandas as pd

from benchmarks.histories import NOW, ZONE, World, world
from benchmarks.machine import RESULTS, save
from spotify_pipeline.domain.listening.days import listened_ms
from spotify_pipeline.domain.model import PlaysPage
from spotify_pipeline.domain.outcome import RECENTLY_PLAYED
from spotify_pipeline.domain.parsing import parse_recently_played
from spotify_pipeline.exports.reader import read_exports
from spotify_pipeline.simulator.http.responses import Shapes, play
from spotify_pipeline.simulator.music.catalogue import Catalogue
from spotify_pipeline.simulator.music.exports import Exporter, zipped
from spotify_pipeline.simulator.music.feed import Feed
from spotify_pipeline.simulator.music.listeners import (
    HEAVY,
    LISTENER_KINDS,
    Listener,
    Play,
    from_ms,
    to_ms,
)
from spotify_pipeline.simulator.music.oddities import Oddities
from spotify_pipeline.storage.embedded import client as embedded
from spotify_pipeline.sync.import_history import import_history
from spotify_pipeline.sync.users import sync_users

START = datetime(2026, 1, 1, tzinfo=UTC)
SKIPS = (0.1, 0.3, 0.5)
# Share of the plays ended with Next after 30 s that the API never lists.
OMITTED = (0.0, 0.3)


@dataclass(frozen=True)
class Estimate:
    """Minutes of all plays: heard, by full length, and capped."""

    skipped_percent: int
    plays: int
    heard_minutes: float
    full_length_minutes: float
    capped_minutes: float

    @property
    def full_length_error(self) -> float:
        """Error of the full length, in per cent."""
        return 100 * (self.full_length_minutes / self.heard_minutes - 1)

    @property
    def capped_error(self) -> float:
        """Error of the capped length, in per cent."""
        return 100 * (self.capped_minutes / self.heard_minutes - 1)


def measure(skip: float, users: int, days: int) -> Estimate:
    """Estimates the plays of some listeners and compares them with the truth."""
    catalogue = Catalogue(1)
    frames, heard = [], 0
    for number in range(users):
        listener = Listener(
            catalogue, number, f"user{number}", "Europe/Oslo", replace(HEAVY, skip=skip)
        )
        plays = listener.plays(to_ms(START), to_ms(START + timedelta(days=days)))
        heard += sum(play.end_ms - play.start_ms for play in plays)
        frames.append(_frame(catalogue, listener.user_id, plays))
    frame = pd.concat(frames, ignore_index=True)
    return Estimate(
        skipped_percent=round(100 * skip),
        plays=len(frame),
        heard_minutes=heard / 60_000,
        full_length_minutes=int(frame["duration_ms"].sum()) / 60_000,
        capped_minutes=int(listened_ms(frame).sum()) / 60_000,
    )


def _frame(catalogue: Catalogue, user_id: str, plays: Sequence[Play]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user_id": user_id,
            "played_at": [from_ms(play.end_ms) for play in plays],
            "track_id": [str(play.track) for play in plays],
            "ms_played": pd.array([None] * len(plays), dtype="Int64"),
            "duration_ms": [catalogue.duration_ms(play.track) for play in plays],
        }
    )


@dataclass(frozen=True)
class Imported:
    """What the receipt of a user's import says: the API's minutes beside those heard."""

    kind: str
    omitted_percent: int
    days: int
    estimated_minutes: float
    heard_minutes: float

    @property
    def error(self) -> float:
        """Error of the estimate, in per cent."""
        return 100 * (self.estimated_minutes / self.heard_minutes - 1)


def measure_imports(days: int) -> Iterator[Imported]:
    """Syncs a user of each kind, then imports the export of the same days."""
    catalogue = Catalogue(1)
    with tempfile.TemporaryDirectory(prefix="estimates_") as folder:
        home = Path(folder)
        with (
            embedded.start(home / "server") as server,
            world(server.url("estimates")) as here,
        ):
            for omitted in OMITTED:
                for name, kind in LISTENER_KINDS.items():
                    listener = Listener(catalogue, 1, name, ZONE, kind)
                    feed = Feed(listener, Oddities(skipped_missing=omitted))
                    yield _import(here, feed, home / f"{name}-{omitted}.zip", omitted, days)


def _import(here: World, feed: Feed, archive: Path, omitted: float, days: int) -> Imported:
    """`archive`, for the export, does not exist yet; the user has its name."""
    user_id, since = archive.name, NOW - timedelta(days=days)
    here.connect(user_id)
    for days_ago in range(days, -1, -5):
        here.now = NOW - timedelta(days=days_ago)
        here.spotify.pages[user_id] = _page(feed, here.now)
        (outcome,) = sync_users(here.pipeline, [user_id], [RECENTLY_PLAYED])
        assert not outcome.failure, outcome
    here.now = NOW
    archive.write_bytes(zipped(Exporter(feed).files("extended", to_ms(since), to_ms(NOW))))
    files = read_exports([archive], now=NOW, include_incognito=False)
    estimate = import_history(here.pipeline, user_id, files).estimate
    assert estimate
    return Imported(
        feed.listener.kind.name,
        round(100 * omitted),
        estimate.days,
        estimate.estimated_ms / 60_000,
        estimate.heard_ms / 60_000,
    )


def _page(feed: Feed, now: datetime) -> PlaysPage:
    """What the API lists of the last 7 days, as if on one page."""
    shapes = Shapes(feed.listener.catalogue)
    entries = feed.entries(to_ms(now - timedelta(days=7)), to_ms(now))
    items = [
        play(shapes.track(entry.play.track, "full"), entry.stamp_ms, None)
        for entry in reversed(entries)
        if entry.listed(to_ms(now))
    ]
    return parse_recently_played({"items": items, "next": "more"}, now)


@click.command()
@click.option("--users", default=20, show_default=True)
@click.option("--days", default=60, show_default=True)
def main(users: int, days: int) -> None:
    """Print and save the tables."""
    estimates = [measure(skip, users, days) for skip in SKIPS]
    click.echo("skipped    plays   heard min   full length      capped")
    for estimate in estimates:
        click.echo(
            f"{estimate.skipped_percent:>6} % {estimate.plays:>8,} {estimate.heard_minutes:>11,.0f}"
            f" {estimate.full_length_error:>+11.1f} % {estimate.capped_error:>+9.1f} %"
        )
    click.echo("user          omitted  days   estimated       heard     error")
    imported = []
    for user in measure_imports(days):
        imported.append(user)
        click.echo(
            f"{user.kind:<14}{user.omitted_percent:>5} %{user.days:>6}"
            f"{user.estimated_minutes:>12,.0f}{user.heard_minutes:>12,.0f}{user.error:>+8.1f} %"
        )
    figures = {"estimates": [*map(asdict, estimates)], "imported": [*map(asdict, imported)]}
    save(RESULTS / "estimates.json", figures)


if __name__ == "__main__":
    main()
