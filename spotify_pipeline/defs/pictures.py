"""The picture of a person's listening on their partition of music_personality.

It names the person's top artists, as metadata of their own partition; whoever is forgotten takes
Dagster's events of their partition along. matplotlib is imported when a picture is drawn, and at
no other time.
"""

import base64
import io
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from spotify_pipeline.defs.tags import DISPATCH_KEY, TRIGGER
from spotify_pipeline.domain.portrait import (
    LEVEL_WORDS,
    Portrait,
    TopList,
    by_weeks,
    level,
    month_starts,
    movement,
)
from spotify_pipeline.storage.listening.portrait import read_portrait

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.projections.polar import PolarAxes

    from spotify_pipeline.sync.pipeline import Pipeline

log = logging.getLogger(__name__)

# What the event log keeps for every such run: the picture as text, which is a third longer.
LARGEST = 40_000

# An opaque card reads alike in the UI's light and dark theme. One hue that only darkens serves
# people who tell no red from green; movement is an arrow and a number, not a colour.
PAPER, INK, FAINT = "#fbfaf7", "#22262e", "#626873"
LEVELS = ("#e7e8ea", "#b9d5ea", "#6aaed6", "#2473b5", "#0b3a75")
ARTISTS, LONGEST_NAME = 8, 26


def wants_picture(tags: Mapping[str, str]) -> bool:
    """Whether the run was launched in the UI: by no request, no schedule and no command."""
    return not {DISPATCH_KEY, TRIGGER} & tags.keys()


def picture_metadata(pipeline: "Pipeline", user_id: str) -> dict[str, dg.MetadataValue]:
    """The person's picture, as metadata of their partition; empty if there is none.

    Everything is stored by then: what goes wrong while drawing must not fail the run.
    """
    try:
        with pipeline.engine.connect() as conn:
            portrait = read_portrait(conn, user_id, pipeline.now())
        text = as_markdown(portrait)
    except Exception as error:
        log.warning("No picture could be drawn: %s", type(error).__name__)
        text = None
    return {} if text is None else {"picture": dg.MetadataValue.md(text)}


def as_markdown(portrait: Portrait) -> str | None:
    """The picture as an image in Markdown, at most 40,000 bytes; None if none is that small."""
    for dpi in (110, 85, 60):
        data = base64.b64encode(draw(portrait, dpi)).decode()
        text = f"![Minutes per day, hours and top artists](data:image/png;base64,{data})"
        if len(text) <= LARGEST:
            return text
    return None


def draw(portrait: Portrait, dpi: int = 110) -> bytes:
    """A PNG: minutes per day as a calendar, hours as a clock, top artists with movement."""
    # Figure and canvas without pyplot: nothing is kept in the process, and no display is needed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(8.6, 5.6), dpi=dpi, facecolor=PAPER)
    canvas = FigureCanvasAgg(figure)
    _draw_calendar(figure.add_axes((0.065, 0.575, 0.915, 0.32)), portrait)
    _draw_clock(figure, portrait)
    _draw_artists(figure.add_axes((0.47, 0.04, 0.51, 0.4)), portrait.artists)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    picture = Image.frombytes("RGBA", canvas.get_width_height(), pixels).convert("RGB")
    file = io.BytesIO()
    # A few colours in a table instead of three bytes per pixel: half the size, no visible loss.
    picture.quantize(48).save(file, "PNG", optimize=True)
    return file.getvalue()


def _draw_calendar(axes: "Axes", portrait: Portrait) -> None:
    from matplotlib.patches import Rectangle

    weeks = by_weeks(portrait.days)
    for column, week in enumerate(weeks):
        for row, day in enumerate(week):
            if day is None:
                continue
            shade = level(day.minutes)
            cell = Rectangle((column + 0.08, row + 0.08), 0.84, 0.84, linewidth=0)
            if shade is None:
                cell.set(facecolor="white", edgecolor="#a3a8b0", hatch="//////", linewidth=0.4)
            else:
                cell.set_facecolor(LEVELS[shade])
            axes.add_patch(cell)
            if shade is not None and day.completeness != "complete":
                axes.plot(column + 0.78, row + 0.28, ".", color="white", markersize=3)
    for column, date in month_starts(weeks).items():
        axes.text(column, -0.35, f"{date:%b}", color=FAINT, fontsize=8)
    for row, name in ((0, "Mon"), (2, "Wed"), (4, "Fri"), (6, "Sun")):
        axes.text(-0.3, row + 0.5, name, color=FAINT, fontsize=8, ha="right", va="center")
    _draw_legend(axes, len(weeks))
    axes.set(xlim=(0, len(weeks)), ylim=(8.4, -1.0))
    axes.set_axis_off()
    axes.set_title("Minutes per day", loc="left", color=INK, fontsize=11, fontweight="bold")


def _draw_legend(axes: "Axes", columns: int) -> None:
    from matplotlib.patches import Rectangle

    axes.text(0, 7.9, "with a dot: at least", color=FAINT, fontsize=7.5, va="center")
    start = columns - 14.6
    for number, (colour, words) in enumerate(zip(LEVELS, LEVEL_WORDS, strict=True)):
        axes.add_patch(Rectangle((start + 2.4 * number, 7.5), 0.7, 0.7, facecolor=colour))
        axes.text(start + 2.4 * number + 0.9, 7.9, words, color=FAINT, fontsize=7.5, va="center")
    unknown = Rectangle((start + 12.2, 7.5), 0.7, 0.7)
    unknown.set(facecolor="white", edgecolor="#a3a8b0", hatch="//////", linewidth=0.4)
    axes.add_patch(unknown)
    axes.text(start + 13.1, 7.9, "unknown", color=FAINT, fontsize=7.5, va="center")


def _draw_clock(figure: "Figure", portrait: Portrait) -> None:
    from math import pi

    axes: PolarAxes = figure.add_axes((0.07, 0.055, 0.33, 0.345), projection="polar")  # type: ignore[assignment]
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    if portrait.hours:
        most = max(portrait.hours)
        angles = [2 * pi * (hour + 0.5) / 24 for hour in range(24)]
        axes.bar(angles, portrait.hours, width=2 * pi / 24 * 0.86, color=LEVELS[3])
        axes.set_ylim(-most / 4, most)
    axes.set_xticks([2 * pi * hour / 24 for hour in range(0, 24, 3)])
    axes.set_xticklabels([str(hour) for hour in range(0, 24, 3)], color=FAINT, fontsize=8)
    axes.set_yticks([])
    axes.grid(False)
    axes.set_facecolor(PAPER)
    axes.spines["polar"].set_color("#c9ccd1")
    title = "Hours of the day, last 28 days" if portrait.hours else "No plays in the last 28 days"
    figure.text(0.065, 0.465, title, color=INK, fontsize=11, fontweight="bold")


def _draw_artists(axes: "Axes", top: TopList) -> None:
    axes.set(xlim=(0, 1), ylim=(ARTISTS, -0.1))
    axes.set_axis_off()
    axes.figure.text(
        0.47, 0.465, "Top artists, last 4 weeks", color=INK, fontsize=11, fontweight="bold"
    )
    printable = _printable()
    for rank, item in enumerate(top.items[:ARTISTS], 1):
        name = "".join(c if printable(c) else "▯" for c in item.name)
        name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
        line: dict[str, Any] = {
            "y": rank - 0.5,
            "va": "center",
            "fontsize": 10,
            "parse_math": False,
        }
        axes.text(0.045, s=str(rank), color=FAINT, ha="right", **line)
        axes.text(0.08, s=name, color=INK, **line)
        axes.text(0.99, s=movement(top.moved(rank)), color=FAINT, ha="right", **line)
    if not top.items:
        axes.text(0, 0.5, "Spotify has not sent a list yet.", color=FAINT, fontsize=10)


def _printable() -> Callable[[str], bool]:
    """Which characters the font has: what it lacks would be drawn as a box, with a warning."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    known = font.get_charmap()
    return lambda character: ord(character) in known
