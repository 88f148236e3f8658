"""Charts show what is known, and what is not as not known."""

from datetime import date, timedelta

from spotify_pipeline.domain.portrait import Day, Point, Weekday, by_weekday
from spotify_pipeline.portrait.drawings import in_words, trend, weekdays

MONDAY = date(2026, 3, 2)


def days(*minutes: int | None, completeness: str = "complete") -> list[Day]:
    """Days from a Monday on; the last one of a list of days is today."""
    return [
        Day(MONDAY + timedelta(days=n), m, 1, completeness if m is not None else "unknown")
        for n, m in enumerate(minutes)
    ]


def test_the_mean_of_a_weekday_is_that_of_its_complete_days() -> None:
    several = days(10, 20, *[None] * 5, 30, None, *[None] * 5, 60, 999)
    several[7] = Day(several[7].date, 30, 1, "at_least")
    monday, tuesday, wednesday, *_ = by_weekday(several)
    # Of three Mondays one is not complete; the second Tuesday is today.
    assert monday == Weekday("Monday", 35, 2, is_least=False)
    assert tuesday == Weekday("Tuesday", 20, 1, is_least=False)
    assert wednesday == Weekday("Wednesday", None, 0, is_least=False)


def test_a_weekday_without_a_complete_day_is_at_least_the_mean_of_the_others() -> None:
    (monday, *_) = by_weekday(days(10, 5, completeness="at_least"))
    assert monday == Weekday("Monday", 10, 1, is_least=True)


def test_unknown_weekdays_and_months_are_hatched_and_0_is_not() -> None:
    drawn = weekdays(by_weekday(days(0, 20)))
    classes = [rect.get("class") for rect in drawn.iter("rect")]
    assert classes == ["bar", *["unknown"] * 6]
    points = [Point("Jan", None, "?", "Jan: not known"), Point("now", 0.0, "0 %", "now: 0 %")]
    chart = trend(points)
    assert [rect.get("class") for rect in chart.iter("rect")] == ["unknown", "bar now"]
    assert chart.get("aria-label") == "Jan: not known; now: 0 %."


def test_a_chart_over_time_says_where_it_ends() -> None:
    for most, label in ((0.0, "10%"), (0.09, "10%"), (0.2, "25%"), (0.5, "50%"), (0.6, "100%")):
        chart = trend([Point("Jan", most, "", "")])
        assert label in [text.text for text in chart.iter("text")]
        heights = [float(rect.get("height", 0)) for rect in chart.iter("rect")]
        assert all(0 < height <= 80 for height in heights)


def test_a_day_says_why_it_is_not_complete() -> None:
    day = Day(MONDAY, 65, 20, "at_least", "more was played than Spotify keeps")
    assert in_words(day) == (
        "Mon 2 Mar 2026: at least 65 minutes, more was played than Spotify keeps"
    )
