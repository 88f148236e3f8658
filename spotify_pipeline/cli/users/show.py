"""`spotify-pipeline users show`: one user as the pipeline sees them."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from spotify_pipeline.cli.database import opened_database
from spotify_pipeline.cli.users.argument import one_user, trouble, unknown
from spotify_pipeline.domain.portrait import Portrait, TopItem, TopList
from spotify_pipeline.home import private_file
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage.listening.portrait import read_portrait
from spotify_pipeline.storage.users.queries import UserStatus, user_statuses
from spotify_pipeline.terminal import count, example, instant, print_json, printable


@click.command(
    epilog=example(
        "spotify-pipeline users show mira",
        "spotify-pipeline users show mira --json",
        "spotify-pipeline users show mira --html mira.html",
    )
)
@one_user
@click.option("--json", "as_json", is_flag=True, help="An object; keys are column names.")
@click.option(
    "--html",
    "file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write one page that needs no network and that only you can read.",
)
def show(user_id: str, as_json: bool, file: Path | None) -> None:
    """Show a user: connection, days, hours, tops and personality.

    Days are those of half a year, hours those of the last 28 days.
    """
    if as_json and file:
        raise click.UsageError("Give --json or --html, not both.")
    now = datetime.now(UTC)
    with opened_database(load_settings()) as engine, engine.connect() as conn:
        statuses = user_statuses(conn, [user_id])
        if not statuses:
            raise unknown(user_id)
        status, portrait = statuses[0], read_portrait(conn, user_id, now)
    if file:
        _write_page(file, status, portrait, now)
    elif as_json:
        print_json(_as_dict(status, portrait))
    else:
        _print(status, portrait)


def _write_page(file: Path, status: UserStatus, portrait: Portrait, now: datetime) -> None:
    from spotify_pipeline.portrait.page import page

    html = page(status, portrait, now).encode()
    with private_file(file) as opened:
        opened.write(html)
    click.echo(f"Wrote {file}.")


def _as_dict(status: UserStatus, portrait: Portrait) -> dict[str, Any]:
    artist, track = _first(portrait.artists), _first(portrait.tracks)
    return {
        **asdict(status),
        "daily_listening": [asdict(day) for day in portrait.days[-7:]],
        "minutes_by_hour": list(portrait.hours),
        "top_artist": artist and asdict(artist),
        "top_track": track and asdict(track),
        "top_artists": _ranked(portrait.artists),
        "top_tracks": _ranked(portrait.tracks),
        "music_personality": portrait.personality and dict(portrait.personality),
        "open_gaps": [{"gap_start": gap.start, "gap_end": gap.end} for gap in portrait.gaps],
    }


def _ranked(top: TopList) -> list[dict[str, Any]]:
    return [
        {"rank": rank, **asdict(item), "moved": top.moved(rank)}
        for rank, item in enumerate(top.items, 1)
    ]


def _first(top: TopList) -> TopItem | None:
    return top.items[0] if top.items else None


def _print(status: UserStatus, portrait: Portrait) -> None:
    # Lazy: --json and --html need no terminal.
    from spotify_pipeline.portrait.terminal import print_portrait

    for name, value in _lines(status, portrait):
        click.echo(f"{name:<14} {printable(value)}")
    print_portrait(portrait)


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
    yield "top artist", _named(_first(portrait.artists))
    yield "top track", _named(_first(portrait.tracks))


def _named(item: TopItem | None) -> str:
    if item is None:
        return "–"
    return f"{item.name} ({item.artist_name})" if item.artist_name else item.name
