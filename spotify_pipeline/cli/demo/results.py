"""The demo's results: a table per listener, and an audit of every day."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import click

from spotify_pipeline.cli.demo.audit import recount
from spotify_pipeline.cli.demo.history import RequestedExport
from spotify_pipeline.defs.pictures import LISTENING_PICTURE
from spotify_pipeline.defs.running import LOCATION
from spotify_pipeline.domain.portrait import Day, Portrait
from spotify_pipeline.domain.steps import RECENTLY_PLAYED
from spotify_pipeline.errors import WorkFailed
from spotify_pipeline.portrait.meanings import meanings
from spotify_pipeline.simulator.control import ListenerInfo, Simulator
from spotify_pipeline.storage.listening.audit import PlayKey
from spotify_pipeline.storage.listening.portrait import read_portrait
from spotify_pipeline.storage.postgres.types import Engine
from spotify_pipeline.terminal import print_table

METRICS = ("artist_diversity", "effective_artists", "repeat_share", "peak_hour", "longest_streak")


def show_listeners(engine: Engine, listeners: Sequence[ListenerInfo]) -> None:
    """A table per listener, read back from Postgres."""
    for listener in listeners:
        with engine.connect() as conn:
            portrait = read_portrait(conn, listener.user_id, datetime.now(UTC))
        click.echo()
        who = f"{listener.display_name}, {listener.timezone}"
        print_table((listener.user_id, who), list(_lines(portrait)))


def _lines(portrait: Portrait) -> Iterator[tuple[str, str]]:
    week = " ".join(f"{day.date:%a}"[:2] + f" {_minutes(day)}" for day in portrait.days[-7:])
    yield "minutes (+: at least)", week
    for artist in portrait.artists.items[:1]:
        yield "top artist", artist.name
    for track in portrait.tracks.items[:1]:
        yield "top track", f"{track.name} ({track.artist_name})"
    if portrait.personality:
        yield "personality", ", ".join(portrait.personality["tags"]) or "no tag fits"
        for metric in meanings(portrait.personality, portrait.names):
            if metric.metric in METRICS:
                yield metric.metric, metric.value or metric.sentence


def _minutes(day: Day) -> str:
    if day.minutes is None:
        return "–"
    return str(day.minutes) if day.completeness == "complete" else f"{day.minutes}+"


def show_recount(
    engine: Engine,
    simulator: Simulator,
    listeners: Sequence[ListenerInfo],
    kept: Mapping[str, set[PlayKey]],
    exports: Mapping[str, RequestedExport],
    since: datetime,
) -> None:
    """Count every day again from the simulator's books. Raises WorkFailed if one differs."""
    booked = {user_id: export.plays for user_id, export in exports.items()}
    with engine.connect() as conn:
        counts = {
            listener.user_id: recount(
                conn,
                simulator,
                listener,
                kept[listener.user_id],
                booked.get(listener.user_id, []),
                since,
            )
            for listener in listeners
        }
    days = sum(count.days for count in counts.values())
    plays = sum(count.plays for count in counts.values())
    wrong = {user_id: count.wrong_days for user_id, count in counts.items() if not count.equal}
    if wrong:
        raise WorkFailed(f"Counted again from the simulator's books, days differ: {wrong}")
    missed = sum(count.never_visible for count in counts.values())
    noticed = sum(count.inside_gaps for count in counts.values())
    imported = sum(map(len, booked.values()))
    click.echo(
        f"\nCounted again from the simulator's books: {days:,} days and {plays:,} plays "
        "are equal.\n"
        f"{imported:,} of these plays were imported from the listeners' exports.\n"
        f"{missed} plays were among Spotify's last 50 at none of the 3-hourly polls; {noticed} of "
        "them\nlie in gaps that the pipeline noticed."
    )


def show_addresses(url: str, listener: ListenerInfo, leaving: ListenerInfo | None) -> None:
    """Three things to click, with their addresses."""
    asset = f"{url}/assets/{{}}?view=partitions&partition={{}}"
    lines = [
        "Three things to click in the Dagster UI:",
        f"  1. What {listener.display_name} listens to, as a picture (Show Markdown):",
        f"     {asset.format(LISTENING_PICTURE.to_user_string(), listener.user_id)}",
        "  2. Whether the numbers can be trusted; the gaps of 3-hourly polls are a warning:",
        f"     {url}/assets/record_health?view=checks",
        "  3. Sync one user again: Materialize all, then choose a partition:",
        f"     {url}/locations/{LOCATION}/jobs/sync_user",
    ]
    if leaving:
        lines += [
            f"{leaving.display_name} has to reconnect Spotify, which fails no run:",
            f"     {asset.format(RECENTLY_PLAYED, leaving.user_id)}",
        ]
    click.echo("\n" + "\n".join(lines))
