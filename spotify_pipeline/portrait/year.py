"""Renders a user's year as one SVG picture to share; nothing is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from xml.etree.ElementTree import Element, tostring

from rich.cells import cell_len, set_cell_size

from spotify_pipeline.domain.portrait import Day
from spotify_pipeline.portrait.drawings import calendar, element, hatching, style, text
from spotify_pipeline.terminal import count

SIZE, MARGIN = 1080, 72
# In columns: letters of Chinese, Japanese and Korean take two.
LONGEST_TITLE, LONGEST_NAME = 40, 26
STYLE = """
text { font-family: system-ui, sans-serif; }
.card { fill: var(--card); }
svg text.huge { font-size: 150px; font-weight: 700; fill: var(--accent); }
svg text.title { font-size: 44px; font-weight: 600; }
svg text.line { font-size: 34px; }
svg text.note { font-size: 22px; fill: var(--faint); }
svg text.head { font-size: 28px; fill: var(--faint); }
"""


@dataclass(frozen=True, slots=True)
class YearCard:
    """The content of the picture; `minutes` None: no day is known."""

    title: str
    minutes: int | None
    is_least: bool
    active_days: int
    artists: Sequence[str]
    tracks: Sequence[str]
    days: Sequence[Day]


def picture(card: YearCard) -> str:
    """An SVG document of 1080 by 1080 pixels."""
    css = (resources.files("spotify_pipeline.portrait") / "style.css").read_text(encoding="utf-8")
    days = calendar(card.days)
    for name, value in (("x", MARGIN), ("y", 430), ("width", SIZE - 2 * MARGIN), ("height", 150)):
        days.set(name, str(value))
    minutes = "?" if card.minutes is None else f"{card.minutes:,}"
    unknown = any(day.completeness == "unknown" for day in card.days)
    plus = "+" if card.is_least and card.minutes is not None else ""
    root = element(
        "svg",
        style(f"{css}{STYLE}"),
        hatching(),
        element("rect", width=str(SIZE), height=str(SIZE), class_="card"),
        text(MARGIN, 116, _short(card.title, LONGEST_TITLE), "title"),
        text(MARGIN, 290, minutes + plus, "huge"),
        text(MARGIN, 350, f"minutes of listening on {count(card.active_days, 'day')}", "head"),
        days,
        *([text(MARGIN, 618, "hatched: not known", "note")] if unknown else []),
        *_list("Top artists", card.artists, MARGIN),
        *_list("Top tracks", card.tracks, SIZE / 2 + 20),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {SIZE} {SIZE}",
        width=str(SIZE),
        height=str(SIZE),
    )
    return tostring(root, encoding="unicode")


def _list(heading: str, names: Sequence[str], x: float) -> Iterator[Element]:
    yield text(x, 680, heading, "head")
    for number, name in enumerate(names, 1):
        yield text(x, 690 + 58 * number, f"{number}  {_short(name, LONGEST_NAME)}", "line")


def _short(name: str, longest: int) -> str:
    return name if cell_len(name) <= longest else set_cell_size(name, longest - 1).rstrip() + "…"
