"""The calendar, the clock and the last week, as inline SVG."""

from collections.abc import Sequence
from math import cos, pi, sin
from xml.etree.ElementTree import Element

from spotify_pipeline.domain.portrait import LEVEL_WORDS, Day, by_weeks, level, month_starts
from spotify_pipeline.portrait.elements import element, rect, svg, text

CELL, LEFT, TOP = 26, 40, 22
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
    if day.minutes is None:
        return f"{when}: not known"
    least = "" if day.completeness == "complete" else "at least "
    return f"{when}: {least}{day.minutes:,} minute{'s' * (day.minutes != 1)}"


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
    most = max((day.minutes or 0 for day in days), default=0) or 1
    bars: list[Element] = []
    for number, day in enumerate(days):
        x = 6 + number * 66
        middle = x + 24
        if day.minutes is None:
            bars += [
                rect(x, 60, 48, 200, "unknown", in_words(day)),
                text(middle, 50, "?", "", "middle"),
            ]
        else:
            top = 258 - 220 * day.minutes / most
            # A plus means "at least".
            minutes = f"{day.minutes:,}{'' if day.completeness == 'complete' else '+'}"
            bars += [rect(x, top, 48, 260 - top, "bar", in_words(day))]
            bars += [text(middle, top - 8, minutes, "", "middle")]
        bars += [text(middle, 282, f"{day.date:%a}", "small", "middle")]
    return svg(462, 290, "; ".join(map(in_words, days)) + ".", *bars, class_="week")


def _class(shade: int | None) -> str:
    return "unknown" if shade is None else f"level-{shade}"
