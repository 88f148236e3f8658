"""Computes the music personality: one row of metrics per user, a reason for each missing metric.

Formulas, minimums and thresholds are in definition. A user's row depends only on that user's data:
it is the same to the last bit whatever the other users and the order of rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from typing import Any

import pandas as pd

from spotify_pipeline.domain.listening.days import local_today
from spotify_pipeline.domain.listening.frames import (
    Bools,
    Integers,
    dates,
    day_numbers,
    groups,
    objects,
    positions,
)
from spotify_pipeline.domain.personality import definition
from spotify_pipeline.domain.personality import listening_metrics as listening
from spotify_pipeline.domain.personality import taste_metrics as taste
from spotify_pipeline.domain.personality.scores import Condition, Score, at_least
from spotify_pipeline.domain.personality.streaks import streaks


@dataclass(frozen=True)
class PersonalityInputs:
    """Inputs of music_personality. Rows of users not in `zones` are ignored.

    now          the instant (aware); a user's window ends on its date in their zone
    zones        user_id -> zone name; one row of the result for each
    plays        user_id, played_at (UTC), track_id, artist_id (primary), source, ms_played as in
                 days; release_date (text as sent, or missing). At least the plays of the local
                 days definition.window(today); others are ignored
    days         user_id, date (datetime.date), top_artist_id (text or missing): see streaks
    top_artists  user_id, time_range, rank, spotify_id, genres (a list or tuple of texts, or None),
                 popularity (0 to 100, or missing), fetched_at (UTC): the current lists
    earlier      user_id, artist_ids (a list of texts), plays, observed_days (integers): counted
                 plays of the local days definition.earlier(today) and their distinct primary
                 artists; a user without a row has none
    observed     user_id, date (datetime.date): days that a successful fetch or an import covers;
                 days outside the window are ignored
    """

    now: datetime
    zones: Mapping[str, str]
    plays: pd.DataFrame
    days: pd.DataFrame
    top_artists: pd.DataFrame
    earlier: pd.DataFrame
    observed: pd.DataFrame


def music_personality(inputs: PersonalityInputs) -> pd.DataFrame:
    """One row per user of `zones`, in its order; the columns are definition.COLUMNS.

    All are object columns of plain Python values: window_start and window_end datetime.date, counts
    int, ids text, other metrics float in full precision, None if unknown; `reasons` a dict from
    metric to why it is None (every None has one; "tags" if there are too few artists for tags),
    `tags` a list of text. Raises UnknownZone.
    """
    today = local_today(inputs.now, inputs.zones)
    user_ids = list(inputs.zones)
    last = day_numbers(objects([today[user_id] for user_id in user_ids]))
    first = last - (definition.WINDOW_DAYS - 1)
    window = listening.Window.of(inputs.plays, inputs.zones, first, last)
    lists = taste.TopLists.of(window.users, inputs.top_artists, inputs.now)
    observed = _observed(inputs.observed, window.users, first, last)
    scores = {
        **listening.artist_metrics(window),
        **listening.repeat_metrics(window),
        **listening.discovery_metrics(window, inputs.earlier),
        **listening.clock_metrics(window),
        **listening.regularity_metrics(window, observed),
        **listening.newness_metrics(window),
        **taste.stability_metrics(lists),
        **taste.genre_metrics(lists),
        **taste.mainstream_metrics(lists),
        **_streak_metrics(inputs, today),
    }
    known = {name: score.known() for name, score in scores.items()}
    metrics = {name: _plain(score, known[name]) for name, score in scores.items()}
    tags, reasons = [], []
    for user in range(len(user_ids)):
        row = {name: values[user] for name, values in metrics.items()}
        why = {name: scores[name].why_not(user) for name in scores if not known[name][user]}
        if row["unique_artists"] < definition.MIN_ARTISTS_FOR_TAGS:
            why["tags"] = definition.INSUFFICIENT_DATA
        tags.append([] if "tags" in why else _tags(row))
        reasons.append(why)
    result = metrics | {
        "user_id": user_ids,
        "window_start": dates(first),
        "window_end": dates(last),
        "play_count": window.plays.tolist(),
        "reasons": reasons,
        "tags": tags,
        "definition_version": [definition.VERSION] * len(user_ids),
    }
    return pd.DataFrame({name: objects(result[name]) for name in definition.COLUMNS})


def _streak_metrics(inputs: PersonalityInputs, today: Mapping[str, date]) -> dict[str, Score]:
    runs = streaks(inputs.days, today)
    enough = at_least(definition.MIN_STREAK_DAYS, "days with plays", runs["days"].to_numpy())
    scores = {}
    for length, artist_id in (
        ("longest_streak", "longest_streak_artist_id"),
        ("current_streak", "streak_artist_id"),
    ):
        none = Condition(runs[length].to_numpy() > 0, partial(_is_zero, length))
        scores[length] = Score(runs[length].to_numpy(), (enough,))
        scores[artist_id] = Score(runs[artist_id].to_numpy(), (enough, none))
    return scores


def _is_zero(name: str, _user: int) -> str:
    return f"{name} is 0"


def _observed(
    observed: pd.DataFrame, users: pd.Index, first: Integers, last: Integers
) -> tuple[Integers, Integers]:
    """The distinct observed (user, day) in each user's window, as positions and day numbers."""
    user = positions(users, observed["user_id"])
    known = user >= 0
    user, day = user[known], day_numbers(observed["date"])[known]
    inside = (first[user] <= day) & (day <= last[user])
    user, day = user[inside], day[inside]
    _, a_row = groups(user, day)
    return user[a_row], day[a_row]


def _plain(score: Score, known: Bools) -> list[Any]:
    return [
        value if sure else None for value, sure in zip(score.values.tolist(), known, strict=True)
    ]


def _tags(row: Mapping[str, Any]) -> list[str]:
    return [
        tag.name
        for tag in definition.TAGS
        if row[tag.metric] is not None and tag.holds(row[tag.metric])
    ]
