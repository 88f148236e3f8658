"""Draws the calendar, the clock, bars and trends as inline SVG, from elements that escape."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from xml.etree.ElementTree import Element, tostring

from spotify_pipeline.domain.portrait import (
    LEVEL_WORDS,
    Day,
    Point,
    Weekday,
    by_weeks,
    level,
    month_starts,
)
from spotify_pipeline.terminal import count, printable

DOCTYPE = "<!doctype html>\n"

Child = Element | str | None


def element(tag: str, *children: Child, **attributes: object) -> Element:
    """An element; `class_` is class, `aria_label` aria-label; children that are None are left out.

    Strips control characters and bidirectional overrides from texts and values.
    """
    made = Element(
        tag,
        {
            name.removesuffix("_").replace("_", "-"): printable(str(value))
            for name, value in attributes.items()
            if value is not None
        },
    )
    for child in children:
        if isinstance(child, str):
            _append_text(made, printable(child))
        elif child is not None:
            made.append(child)
    return made


def _append_text(parent: Element, text: str) -> None:
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text


def style(css: str) -> Element:
    """A style element, whose text HTML does not escape: only for our own CSS."""
    made = Element("style")
    made.text = css
    return made


def written(root: Element) -> str:
    """Serializes the document."""
    return DOCTYPE + tostring(root, encoding="unicode", method="html") + "\n"


def svg(width: float, height: float, label: str, *children: Child, class_: str = "") -> Element:
    """An SVG drawing with a one-sentence label for screen readers."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
        class_=class_ or None,
    )


def text(x: float, y: float, words: str, class_: str = "", anchor: str = "start") -> Element:
    """A text in a drawing; `anchor` is start, middle or end."""
    return element("text", words, x=f"{x:g}", y=f"{y:g}", class_=class_ or None, text_anchor=anchor)


def rect(
    x: float, y: float, width: float, height: float, class_: str, title: str | None = None
) -> Element:
    """A rounded rectangle with a tooltip."""
    return element(
        "rect",
        element("title", title) if title else None,
        x=f"{x:.1f}",
        y=f"{y:.1f}",
        width=f"{width:.1f}",
        height=f"{height:.1f}",
        rx="4",
        class_=class_,
    )


CELL, LEFT, TOP = 26, 40, 22
TREND_WIDTH = 320
HATCH = "hatch"


def hatching() -> Element:
    """The pattern of unknown days; defined once, used by every drawing of the page."""
    line = element("path", d="M0,6 L6,0", class_="hatch-line")
    ground = element("rect", width="6", height="6", class_="hatch-ground")
    pattern = element("pattern", ground, line, id=HATCH, width="6", height="6")
    pattern.set("patternUnits", "userSpaceOnUse")
    return element(
        "svg", element("defs", pattern), width="0", height="0", aria_hidden="true", class_="off"
    )


def in_words(day: Day) -> str:
    """A day in words: `Mon 2 Nov 2026: at least 65 minutes`."""
    when = f"{day.date:%a} {day.date.day} {day.date:%b %Y}"
    why = f", {day.why}" if day.why else ""
    if day.minutes is None:
        return f"{when}: not known{why}"
    least = "" if day.completeness == "complete" else "at least "
    return f"{when}: {least}{count(day.minutes, 'minute')}{why}"


def calendar(days: Sequence[Day]) -> Element:
    """A column per week, a cell per day, coloured by minutes in five levels."""
    weeks = by_weeks(days)
    known = [day.minutes for day in days if day.minutes is not None]
    cells = [
        cell
        for column, week in enumerate(weeks)
        for row, day in enumerate(week)
        if day
        for cell in _cells(LEFT + column * CELL, TOP + row * CELL, day)
    ]
    months = [
        text(LEFT + column * CELL, 14, f"{date:%b}", "small")
        for column, date in month_starts(weeks).items()
    ]
    weekdays = [
        text(LEFT - 8, TOP + row * CELL + 16, name, "small", "end")
        for row, name in ((0, "Mon"), (2, "Wed"), (4, "Fri"), (6, "Sun"))
    ]
    label = (
        f"Minutes per day since {days[0].date:%B %Y}: {sum(known):,} minutes on the {len(known)} "
        f"of {len(days)} days that are known."
    )
    width, height = LEFT + len(weeks) * CELL, TOP + 7 * CELL
    return svg(width, height, label, *months, *weekdays, *cells, class_="calendar")


def _cells(x: float, y: float, day: Day) -> list[Element]:
    shade = level(day.minutes)
    cell = rect(x, y, CELL - 4, CELL - 4, _class(shade), in_words(day))
    if shade is None or day.completeness == "complete":
        return [cell]
    dot = element("circle", cx=f"{x + 17:.1f}", cy=f"{y + 5:.1f}", r="2", class_=f"dot on-{shade}")
    return [cell, dot]


def legend() -> Element:
    """The legend of the calendar's colours."""

    def swatch(class_: str, words: str) -> Element:
        box = svg(18, 18, words, rect(1, 1, 16, 16, class_), class_="swatch")
        return element("li", box, words)

    at_least = svg(
        18,
        18,
        "at least",
        rect(1, 1, 16, 16, "level-2"),
        element("circle", cx="13", cy="5", r="2", class_="dot on-2"),
        class_="swatch",
    )
    levels = [swatch(f"level-{n}", words) for n, words in enumerate(LEVEL_WORDS)]
    return element(
        "ul",
        *levels,
        element("li", at_least, "at least"),
        swatch("unknown", "not known"),
        class_="legend",
        aria_label="Minutes",
    )


def clock(hours: Sequence[int]) -> Element:
    """24 sectors, midnight at the top, as long as the minutes heard in that hour."""
    most = max(hours)
    sectors = [
        element(
            "path",
            element("title", f"{hour}:00 to {hour + 1}:00: {minutes:,} minutes"),
            d=_sector(hour, 40 + 95 * minutes / most),
            class_="sector",
        )
        for hour, minutes in enumerate(hours)
        if minutes
    ]
    rings = [
        element("circle", cx="170", cy="170", r=str(radius), class_="ring") for radius in (40, 135)
    ]
    labels = [
        text(170 + 153 * sin(_angle(hour)), 175 - 153 * cos(_angle(hour)), str(hour), "", "middle")
        for hour in range(0, 24, 3)
    ]
    busiest = hours.index(most)
    label = f"Minutes by local hour. Most, {most:,}, from {busiest}:00 to {busiest + 1}:00."
    return svg(340, 340, label, *rings, *sectors, *labels, class_="clock")


def _angle(hour: float) -> float:
    return 2 * pi * hour / 24


def _sector(hour: int, radius: float) -> str:
    """The SVG path of a sector from the inner ring outwards, a little narrower than its hour."""

    def point(at: float, distance: float) -> str:
        return f"{170 + distance * sin(_angle(at)):.1f},{170 - distance * cos(_angle(at)):.1f}"

    first, last = hour + 0.06, hour + 0.94
    return (
        f"M{point(first, 40)} L{point(first, radius)} "
        f"A{radius:.1f},{radius:.1f} 0 0 1 {point(last, radius)} "
        f"L{point(last, 40)} A40,40 0 0 0 {point(first, 40)} Z"
    )


def week(days: Sequence[Day]) -> Element:
    """A bar chart of the last days with their minutes."""
    return _bars(
        [
            Bar(f"{day.date:%a}", day.minutes, day.completeness != "complete", in_words(day))
            for day in days
        ]
    )


def weekdays(means: Sequence[Weekday]) -> Element:
    """A bar chart of the mean minutes of each weekday."""
    return _bars(
        [Bar(mean.name[:3], mean.minutes, mean.is_least, weekday_in_words(mean)) for mean in means]
    )


def weekday_in_words(mean: Weekday) -> str:
    """A weekday in words: `Monday: 65 minutes, the mean of 12 days`."""
    if mean.minutes is None:
        return f"{mean.name}: not known"
    least = "at least " if mean.is_least else ""
    return (
        f"{mean.name}: {least}{count(mean.minutes, 'minute')}, the mean of "
        f"{count(mean.days, 'day')}"
    )


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar with its minutes; None: not known. `is_least`: at least so many."""

    label: str
    minutes: int | None
    is_least: bool
    words: str


def _bars(bars: Sequence[Bar]) -> Element:
    most = max((bar.minutes or 0 for bar in bars), default=0) or 1
    drawn: list[Element] = []
    for number, bar in enumerate(bars):
        x = 6 + number * 66
        middle = x + 24
        if bar.minutes is None:
            drawn += [
                rect(x, 60, 48, 200, "unknown", bar.words),
                text(middle, 50, "?", "", "middle"),
            ]
        else:
            top = 258 - 220 * bar.minutes / most
            # A plus means "at least".
            minutes = f"{bar.minutes:,}{'+' if bar.is_least else ''}"
            drawn += [rect(x, top, 48, 260 - top, "bar", bar.words)]
            drawn += [text(middle, top - 8, minutes, "", "middle")]
        drawn += [text(middle, 282, bar.label, "small", "middle")]
    return svg(462, 290, "; ".join(bar.words for bar in bars) + ".", *drawn, class_="week")


def trend(points: Sequence[Point]) -> Element:
    """A small chart of a share over time: a column per point, the last one is now."""
    known = [point.value for point in points if point.value is not None]
    most = next((top for top in (0.1, 0.25, 0.5) if max(known, default=1) <= top), 1.0)
    step = TREND_WIDTH / len(points)
    drawn: list[Element] = [
        element("line", x1="0", x2=str(TREND_WIDTH), y1=str(y), y2=str(y), class_="axis")
        for y in (18, 98)
    ]
    drawn.append(text(TREND_WIDTH, 13, f"{most:.0%}", "small", "end"))
    for number, point in enumerate(points):
        x, width = number * step + 2, step - 4
        if point.value is None:
            drawn.append(rect(x, 18, width, 80, "unknown", point.words))
        else:
            # A value of 0 is a thin line, because it is known.
            height = max(2.0, 80 * point.value / most)
            kind = "bar now" if point is points[-1] else "bar"
            drawn.append(rect(x, 98 - height, width, height, kind, point.words))
    drawn.append(text(2, 114, points[0].label, "small"))
    if len(points) > 1:
        drawn.append(text(TREND_WIDTH - 2, 114, points[-1].label, "small", "end"))
    label = "; ".join(point.words for point in points) + "."
    return svg(TREND_WIDTH, 118, label, *drawn, class_="trend")


def _class(shade: int | None) -> str:
    return "unknown" if shade is None else f"level-{shade}"
