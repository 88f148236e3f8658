"""The error of estimated minutes compared with the minutes heard, for listeners who skip.

The API does not say how long a track was heard. Compares the full length, and the length capped by
the time since the previous play, for listeners who skip 10, 30 and 50 % of their tracks.

    python -m benchmarks.estimates
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta

import click
import pandas as pd

from benchmarks.machine import RESULTS, save
from spotify_pipeline.domain.listening.days import listened_ms
from spotify_pipeline.simulator.music.catalogue import Catalogue
from spotify_pipeline.simulator.music.listener_kinds import HEAVY
from spotify_pipeline.simulator.music.listeners import Listener, Play, from_ms, to_ms

START = datetime(2026, 1, 1, tzinfo=UTC)
SKIPS = (0.1, 0.3, 0.5)


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


@click.command()
@click.option("--users", default=20, show_default=True)
@click.option("--days", default=60, show_default=True)
def main(users: int, days: int) -> None:
    """Print and save the table."""
    estimates = [measure(skip, users, days) for skip in SKIPS]
    click.echo("skipped    plays   heard min   full length      capped")
    for estimate in estimates:
        click.echo(
            f"{estimate.skipped_percent:>6} % {estimate.plays:>8,} {estimate.heard_minutes:>11,.0f}"
            f" {estimate.full_length_error:>+11.1f} % {estimate.capped_error:>+9.1f} %"
        )
    save(RESULTS / "estimates.json", {"estimates": [asdict(estimate) for estimate in estimates]})


if __name__ == "__main__":
    main()
