"""`spotify-pipeline users show`: one user as the pipeline sees them."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Any

import click

from spotify_pipeline.cli.database import opened_database
from spotify_pipeline.cli.output import count, example, instant, print_json, print_table, printable
from spotify_pipeline.cli.people import one_user, trouble, unknown
from spotify_pipeline.domain.zones import check_zone
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage.accounts import UserStatus, user_statuses
from spotify_pipeline.storage.portrait import Portrait, TopItem, read_portrait

# Not metrics: what the row is, where it counts from, why something is missing.
_NOT_METRICS = {
    *("user_id", "window_start", "window_end", "play_count", "reasons", "tags"),
    *("definition_version", "computed_at"),
}


@click.command(
    epilog=example("spotify-pipeline users show mira", "spotify-pipeline users show mira --json")
)
@one_user
@click.option("--json", "as_json", is_flag=True, help="An object; keys are column names.")
def show(user_id: str, as_json: bool) -> None:
    """Show a user: connection, the last seven days, tops and personality."""
    with opened_database(load_settings()) as engine, engine.connect() as conn:
        statuses = user_statuses(conn, [user_id])
        if not statuses:
            raise unknown(user_id)
        status = statuses[0]
        today = datetime.now(UTC).astimezone(check_zone(status.timezone)).date()
        portrait = read_portrait(conn, user_id, today)
    if as_json:
        print_json(_as_dict(status, portrait))
    else:
        _print(status, portrait)


def _as_dict(status: UserStatus, portrait: Portrait) -> dict[str, Any]:
    return {
        **asdict(status),
        "daily_listening": [asdict(day) for day in portrait.days],
        "top_artist": portrait.top_artist and asdict(portrait.top_artist),
        "top_track": portrait.top_track and asdict(portrait.top_track),
        "music_personality": portrait.personality and dict(portrait.personality),
    }


def _print(status: UserStatus, portrait: Portrait) -> None:
    for name, value in _lines(status, portrait):
        click.echo(f"{name:<14} {printable(value)}")
    print_table(
        ("date", "minutes", "plays", "completeness"),
        [
            (_weekday(day.date), _number(day.minutes), _number(day.plays), day.completeness)
            for day in portrait.days
        ],
    )
    if portrait.personality is None:
        click.echo("No personality yet: it is computed at the next sync.")
        return
    row = portrait.personality
    click.echo(
        f"Personality of {row['window_start']} to {row['window_end']} "
        f"({row['play_count']:,} plays): {', '.join(row['tags']) or 'no tags'}"
    )
    print_table(("metric", "value"), list(_metrics(row)))


def _lines(status: UserStatus, portrait: Portrait) -> Iterator[tuple[str, str]]:
    yield "user", status.user_id
    yield "name", status.display_name or "–"
    yield "time zone", status.timezone
    until = f", reconnect by {instant(status.reconnect_by)}" if status.reconnect_by else ""
    yield "connection", status.connection + until
    yield "state", status.state
    yield "last sync", instant(status.last_synced_at)
    yield "next due", instant(status.next_due_at)
    if failure := trouble(status):
        yield "failure", ": ".join(failure)
    yield "stored", f"{count(status.plays, 'play')} on {count(status.days, 'day')}"
    yield "top artist", _top(portrait.top_artist)
    yield "top track", _top(portrait.top_track)


def _top(item: TopItem | None) -> str:
    if item is None:
        return "–"
    return f"{item.name} ({item.artist_name})" if item.artist_name else item.name


def _weekday(day: date) -> str:
    return f"{day:%a} {day.isoformat()}"


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _metrics(row: Any) -> Iterator[tuple[str, str]]:
    """Each metric with its value, or with the reason why there is none."""
    for name, value in row.items():
        if name in _NOT_METRICS:
            continue
        if value is None:
            # An artist of a streak is missing because the streak is; that says it already.
            if not name.endswith("_id"):
                yield name, f"– {row['reasons'].get(name, 'not known')}"
        else:
            yield name, f"{value:.3f}" if isinstance(value, float) else str(value)
