"""Renders the portrait as one HTML page that loads nothing: no script, font or picture."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib import resources
from xml.etree.ElementTree import Element
from zoneinfo import ZoneInfo

from spotify_pipeline.domain.listening.coverage import Interval
from spotify_pipeline.domain.portrait import Day, Portrait, TopList, movement
from spotify_pipeline.domain.zones import check_zone
from spotify_pipeline.portrait.drawings import (
    Child,
    calendar,
    clock,
    element,
    hatching,
    in_words,
    legend,
    style,
    week,
    written,
)
from spotify_pipeline.portrait.meanings import meanings
from spotify_pipeline.storage.users.queries import UserStatus
from spotify_pipeline.terminal import count

# Defence in depth: even unescaped markup could load and run nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
SHOWN_GAPS = 10


def page(status: UserStatus, portrait: Portrait, now: datetime) -> str:
    """The whole HTML document. All times on it are in the user's zone."""
    zone = check_zone(status.timezone)
    name = status.display_name or status.user_id
    css = (resources.files("spotify_pipeline.portrait") / "style.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        _meta(http_equiv="Content-Security-Policy", content=POLICY),
        _meta(name="viewport", content="width=device-width, initial-scale=1"),
        _meta(name="referrer", content="no-referrer"),
        element("title", f"What {name} listens to"),
        style(css),
    )
    body = element(
        "body",
        hatching(),
        _header(status, portrait, name, now.astimezone(zone)),
        element("main", *_sections(portrait, zone)),
        element(
            "footer",
            "Minutes count the length of what Spotify lists as played, or the time since the play "
            "before if that is shorter, and are an upper estimate. What is not known is shown as "
            "not known, never as 0.",
        ),
    )
    return written(element("html", head, body, lang="en"))


def _meta(**attributes: str) -> Element:
    return element("meta", **attributes)


def _header(status: UserStatus, portrait: Portrait, name: str, now: datetime) -> Element:
    tags = portrait.personality["tags"] if portrait.personality else []
    synced = status.last_synced_at and status.last_synced_at.astimezone(now.tzinfo)
    return element(
        "header",
        element("h1", element("bdi", name)),
        element(
            "p",
            f"{status.timezone} · {now:%A}, {now.day} {now:%B %Y}, {now:%H:%M} · "
            + (f"last synced {_when(synced)}" if synced else "never synced")
            + f" · Spotify {status.connection.replace('_', ' ')}",
            class_="faint",
        ),
        element("div", *(element("span", tag, class_="tag") for tag in tags), class_="tags")
        if tags
        else None,
    )


def _sections(portrait: Portrait, zone: ZoneInfo) -> Iterator[Element]:
    last = portrait.days[-7:]
    yield _section(
        "Minutes per day",
        element("div", calendar(portrait.days), class_="scroll"),
        legend(),
        _table_of(portrait.days),
        wide=True,
    )
    yield _section("The last 7 days, in minutes", week(last), _sum(last))
    yield _section("Hours of the day, last 28 days", _clock(portrait.hours))
    yield _section("Top artists, last 4 weeks", *_top(portrait.artists))
    yield _section("Top tracks, last 4 weeks", *_top(portrait.tracks))
    yield _section("Music personality", *_personality(portrait), wide=True)
    yield _section("How much is known", *_known(portrait, zone), wide=True)


def _section(title: str, *children: Child, wide: bool = False) -> Element:
    return element("section", element("h2", title), *children, class_="wide" if wide else None)


def _clock(hours: Sequence[int]) -> Element:
    return clock(hours) if hours else element("p", "No plays in these days.", class_="faint")


def _sum(days: Sequence[Day]) -> Element:
    known = [day.minutes for day in days if day.minutes is not None]
    words = f"{sum(known):,} minutes on {count(len(known), 'day')}"
    if any(day.minutes is not None and day.completeness != "complete" for day in days):
        words = f"At least {words}. + means at least."
    else:
        words += " that are known."
    return element("p", words, class_="small")


def _table_of(days: Sequence[Day]) -> Element:
    """The calendar as a table for screen readers."""
    lines = [element("li", in_words(day)) for day in reversed(days)]
    return element(
        "details", element("summary", "Every day in words"), element("ul", *lines, class_="small")
    )


def _top(top: TopList) -> Iterator[Element]:
    if not top.items:
        yield element("p", "Spotify has not sent a list yet.", class_="faint")
        return
    lines = []
    for rank, item in enumerate(top.items, 1):
        by = element("span", element("bdi", item.artist_name), class_="small")
        lines.append(
            element(
                "li",
                element("span", str(rank), class_="rank"),
                element(
                    "span",
                    element("bdi", item.name),
                    by if item.artist_name else None,
                    class_="name",
                ),
                _movement(top.moved(rank)),
            )
        )
    yield element("ol", *lines, class_="top")
    yield element(
        "p",
        "No list is known from four weeks ago to compare with."
        if top.ranks_before is None
        else "Arrows: ranks gained or lost against the list of four weeks ago.",
        class_="small",
    )


def _movement(moved: int | str | None) -> Element | None:
    if moved is None:
        return None
    if isinstance(moved, str):
        return element("span", moved, class_="moved tag")
    words = f"{'up' if moved > 0 else 'down'} {count(abs(moved), 'rank')}" if moved else "unchanged"
    return element("span", movement(moved), class_="moved", role="img", aria_label=words)


def _personality(portrait: Portrait) -> Iterator[Element]:
    row = portrait.personality
    if row is None:
        yield element("p", "It is computed at the next sync.", class_="faint")
        return
    yield element(
        "p",
        f"{count(row['play_count'], 'play')} from {row['window_start']} to {row['window_end']}.",
        class_="faint",
    )
    lines = [
        element(
            "tr",
            element("th", metric.name, scope="row"),
            element("td", element("bdi", metric.value), class_="value")
            if metric.value is not None
            else element("td", "–", class_="value none"),
            element("td", metric.sentence),
        )
        for metric in meanings(row, portrait.names)
    ]
    yield element("table", element("tbody", *lines))


def _known(portrait: Portrait, zone: ZoneInfo) -> Iterator[Element]:
    kinds = [day.completeness for day in portrait.days]
    yield element(
        "p",
        f"Of {len(kinds)} days, {kinds.count('complete')} are known completely, of "
        f"{kinds.count('at_least')} there may be more, and of {kinds.count('unknown')} nothing is "
        "known.",
    )
    if not portrait.gaps:
        yield element("p", "No plays are known to be missing.")
        return
    more = len(portrait.gaps) - SHOWN_GAPS
    yield element(
        "p",
        f"In {count(len(portrait.gaps), 'gap')} plays may be missing, because more were played "
        "between two polls than Spotify keeps:",
    )
    lines = [element("li", _span(gap, zone)) for gap in portrait.gaps[:SHOWN_GAPS]]
    yield element("ul", *lines, element("li", f"and {more:,} earlier") if more > 0 else None)


def _span(gap: Interval, zone: ZoneInfo) -> str:
    return f"{_when(gap.start.astimezone(zone))} to {_when(gap.end.astimezone(zone))}"


def _when(at: datetime) -> str:
    return f"{at.day} {at:%b %Y} {at:%H:%M}"
