"""Renders the portrait as one SVG image: calendar, hours of the day, top artists.

For places that show only images, such as the Dagster UI. It uses the page's drawings; the style is
inline, and nothing is loaded.
"""

from collections.abc import Iterator
from importlib import resources
from xml.etree.ElementTree import Element, tostring

from spotify_pipeline.domain.portrait import Portrait, TopList, movement
from spotify_pipeline.portrait.drawings import CELL, calendar, clock, hatching
from spotify_pipeline.portrait.elements import element, style, text

WIDTH, HEIGHT, MARGIN = 760, 600, 24
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
    height = 22 + 7 * CELL
    root = element(
        "svg",
        style(f"{css}{STYLE}"),
        hatching(),
        element("rect", width=str(WIDTH), height=str(HEIGHT), class_="card"),
        _title(MARGIN, 36, "Minutes per day"),
        _placed(days, MARGIN, 48, WIDTH - 2 * MARGIN, height),
        _title(MARGIN, 300, "Hours of the day, last 28 days"),
        _placed(clock(portrait.hours), MARGIN, 310, 270, 270)
        if portrait.hours
        else text(MARGIN, 330, "No plays in these days.", "small"),
        _title(340, 300, "Top artists, last 4 weeks"),
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


def _artists(top: TopList) -> Iterator[Element]:
    if not top.items:
        yield text(340, 330, "Spotify has not sent a list yet.", "small")
    for rank, item in enumerate(top.items[:ARTISTS], 1):
        y = 304 + 32 * rank
        name = item.name
        if len(name) > LONGEST_NAME:
            name = f"{name[: LONGEST_NAME - 1]}…"
        yield text(360, y, str(rank), "small", "end")
        yield text(372, y, name)
        yield text(WIDTH - MARGIN, y, movement(top.moved(rank)), "small", "end")
