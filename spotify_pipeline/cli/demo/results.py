"""The demo's results: a table per listener, an audit of every day, and what to click."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

import click

from spotify_pipeline.cli.demo.history import booked_plays
from spotify_pipeline.defs.assets import LISTENING_PICTURE
from spotify_pipeline.defs.instance import LOCATION
from spotify_pipeline.domain.outcome import RECENTLY_PLAYED
from spotify_pipeline.domain.portrait import Day, Portrait
from spotify_pipeline.errors import WorkFailed
from spotify_pipeline.portrait.meanings import meanings
from spotify_pipeline.simulator.control import Export, ExportLine, ListenerInfo, Simulator
from spotify_pipeline.storage.listening.coverage import read_coverage
from spotify_pipeline.storage.listening.history import (
    PlayKey,
    StoredDay,
    first_api_play,
    stored_days,
)
from spotify_pipeline.storage.listening.portrait import read_portrait
from spotify_pipeline.storage.postgres.types import Connection, Engine
from spotify_pipeline.terminal import print_table

_A_MILLISECOND = timedelta(milliseconds=1)
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
    exports: Mapping[str, Export],
    since: datetime,
) -> None:
    """Count every day again from the simulator's books. Raises WorkFailed if one differs."""
    booked = {user_id: booked_plays(export) for user_id, export in exports.items()}
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
    wrong = {user_id: count.wrong_days for user_id, count in counts.items() if count.wrong_days}
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


@dataclass(frozen=True, slots=True)
class Recount:
    """How the stored days of one listener compare with the books, to the millisecond."""

    days: int
    wrong_days: tuple[date, ...]
    plays: int
    # Played, but among the last 50 at no poll: no client can have these ...
    never_visible: int
    # ... and of those, how many lie inside a gap that the pipeline has noticed.
    inside_gaps: int


class _Known(NamedTuple):
    """A play that must be stored; `ms_played` is None if only the feed shows it."""

    played_at: datetime
    track: str
    duration_ms: int
    ms_played: int | None


def recount(
    conn: Connection,
    simulator: Simulator,
    listener: ListenerInfo,
    kept: set[PlayKey],
    exported: Sequence[ExportLine],
    since: datetime,
) -> Recount:
    """Compare daily_listening with the books from the first whole day after `since`.

    `kept` is what was stored before this demo, `exported` what was imported; exports begin at
    `since`.
    """
    zone = ZoneInfo(listener.timezone)
    first_day = since.astimezone(zone).date() + timedelta(days=1)
    stored = {
        day: row for day, row in stored_days(conn, listener.user_id).items() if day >= first_day
    }
    polled_from = first_api_play(conn, listener.user_id)
    if polled_from is None:
        return Recount(0, (), 0, 0, 0)
    # Exclusive: begin before the first play that was polled.
    lived = simulator.ledger(listener.user_id, since=polled_from - timedelta(days=1))
    polled = [play for play in lived if play.served or (play.played_at, play.track_id) in kept]
    heard = {line.played_at: line.row["ms_played"] for line in exported if line.played_at}
    known = [
        _Known(play.played_at, play.track_id, play.duration_ms, heard.get(play.played_at))
        for play in polled
    ]
    shown = {play.played_at for play in polled}
    known += [
        _Known(
            datetime.fromisoformat(line.row["ts"]),
            line.row["spotify_track_uri"],
            0,
            line.row["ms_played"],
        )
        for line in exported
        if line.played_at not in shown
    ]
    expected = {day: row for day, row in _days(known, zone).items() if day >= first_day}
    wrong = {day for day in stored.keys() | expected.keys() if stored.get(day) != expected.get(day)}
    missed = [
        play
        for play in lived
        # A play that is still visible will be collected by the next poll.
        if play.published
        and not play.visible
        and play.played_at > polled_from
        and play.played_at not in shown | heard.keys()
    ]
    gaps = read_coverage(conn, [listener.user_id])[listener.user_id].open_gaps
    return Recount(
        days=len(stored),
        wrong_days=tuple(sorted(wrong)),
        plays=len(known),
        never_visible=len(missed),
        inside_gaps=sum(any(gap.contains(play.played_at) for gap in gaps) for play in missed),
    )


def _days(plays: list[_Known], zone: ZoneInfo) -> dict[date, StoredDay]:
    milliseconds: dict[date, int] = defaultdict(int)
    count: dict[date, int] = defaultdict(int)
    before: datetime | None = None
    for play in sorted(plays, key=lambda play: (play.played_at, play.track)):
        day = play.played_at.astimezone(zone).date()
        # No more than the time since the play before, unless both ended within 30 s.
        since = (play.played_at - before) // _A_MILLISECOND if before else play.duration_ms
        estimate = since if 30_000 <= since < play.duration_ms else play.duration_ms
        milliseconds[day] += estimate if play.ms_played is None else play.ms_played
        # A shorter row of an export counts in the minutes only.
        count[day] += play.ms_played is None or play.ms_played >= 30_000
        before = play.played_at
    return {day: ((ms + 30_000) // 60_000, ms, count[day]) for day, ms in milliseconds.items()}
