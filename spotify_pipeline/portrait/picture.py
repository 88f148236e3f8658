"""Renders the portrait as one SVG image: calendar, hours of the day, top artists.

For places that show only images, such as the Dagster UI. It uses the page's drawings; the style is
inline, and nothing is loaded.
"""

from collections.abc import Iterator
from importlib import resources
from xml.etree.ElementTree import Element, tostring

from spotify_pipeline.domain.portrait import LEVEL_WORDS, Portrait, TopList, movement
from spotify_pipeline.portrait.drawings import (
    CELL,
    LEFT,
    calendar,
    clock,
    element,
    hatching,
    rect,
    style,
    text,
)

WIDTH, HEIGHT, MARGIN = 760, 630, 24
ARTISTS, LONGEST_NAME = 8, 30
# The card has its own background, whatever the colours around the image.
STYLE = """
text { font-family: system-ui, sans-serif; }
.title { font-weight: 600; }
.card { fill: var(--card); }
"""


def picture(portrait: Portrait) -> str:
    """An SVG document of about 25 kB."""
    css = (resources.files("spotify_pipeline.portrait") / "style.css").read_text(encoding="utf-8")
    days = calendar(portrait.days)
    height, last = 22 + 7 * CELL, portrait.days[-1].date
    root = element(
        "svg",
        style(f"{css}{STYLE}"),
        hatching(),
        element("rect", width=str(WIDTH), height=str(HEIGHT), class_="card"),
        _title(MARGIN, 36, f"Minutes per day, until {last.day} {last:%B %Y}"),
        _placed(days, MARGIN, 48, WIDTH - 2 * MARGIN, height),
        *_legend(MARGIN + LEFT, 264),
        _title(MARGIN, 330, "Hours of the day, last 28 days"),
        _placed(clock(portrait.hours), MARGIN, 340, 270, 270)
        if portrait.hours
        else text(MARGIN, 360, "No plays in these days.", "small"),
        _title(340, 330, "Top artists, last 4 weeks"),
        *_artists(portrait.artists),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        width=str(WIDTH),
        height=str(HEIGHT),
    )
    # Tooltips do not work in images.
    for parent in root.iter():
        for child in parent.findall("title"):
            parent.remove(child)
    return tostring(root, encoding="unicode")


def _title(x: float, y: float, words: str) -> Element:
    return text(x, y, words, "title")


def _placed(drawing: Element, x: float, y: float, width: float, height: float) -> Element:
    """Places a drawing of the page inside another one."""
    for name, value in (("x", x), ("y", y), ("width", width), ("height", height)):
        drawing.set(name, f"{value:g}")
    return drawing


def _legend(x: float, y: float) -> Iterator[Element]:
    """What the calendar's colours mean, in a row."""
    kinds = [(f"level-{n}", words) for n, words in enumerate(LEVEL_WORDS)]
    for class_, words in (*kinds, ("level-2 dotted", "at least"), ("unknown", "not known")):
        name, _, dotted = class_.partition(" ")
        yield rect(x, y, 16, 16, name)
        if dotted:
            yield element("circle", cx=f"{x + 12:g}", cy=f"{y + 4:g}", r="2", class_="dot on-2")
        yield text(x + 22, y + 13, words, "small")
        x += 90


def _artists(top: TopList) -> Iterator[Element]:
    if not top.items:
        yield text(340, 360, "Spotify has not sent a list yet.", "small")
    for rank, item in enumerate(top.items[:ARTISTS], 1):
        y = 334 + 32 * rank
        name = item.name
        if len(name) > LONGEST_NAME:
            name = f"{name[: LONGEST_NAME - 1]}…"
        yield text(360, y, str(rank), "small", "end")
        yield text(372, y, name)
        yield text(WIDTH - MARGIN, y, movement(top.moved(rank)), "small", "end")
