"""The metrics of the music personality that come from the top artist lists."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from spotify_pipeline.domain.listening.frames import (
    Bools,
    Integers,
    Objects,
    TextCodes,
    among,
    groups,
    objects,
    positions,
    utc_times,
)
from spotify_pipeline.domain.model import TimeRange
from spotify_pipeline.domain.personality import definition
from spotify_pipeline.domain.personality.scores import (
    Condition,
    Floats,
    Score,
    at_least,
    count,
    entropy,
    evenness,
    ratio,
    total,
)


@dataclass(frozen=True)
class TopLists:
    """The users' top artist lists, one entry per artist of a list, by user, time range and place.

    `user` is the position in `users`, `place` counts from 0, `artist` is a code, `genres` a list or
    None, `popularity` NaN if unknown, `is_old` whether the list is too old to use.
    """

    users: pd.Index
    user: Integers
    time_range: Objects
    place: Integers
    artist: Integers
    genres: Objects
    popularity: Floats
    is_old: Bools

    @classmethod
    def of(cls, users: pd.Index, top_artists: pd.DataFrame, now: datetime) -> "TopLists":
        """`users`: the users to compute; for `top_artists` see PersonalityInputs."""
        user = positions(users, top_artists["user_id"])
        time_range = TextCodes.of(top_artists["time_range"]).codes
        rank = top_artists["rank"].to_numpy(dtype=np.int64)
        rows = np.lexsort((rank, time_range, user))
        rows = rows[user[rows] >= 0]
        of_list, start = groups(user[rows], time_range[rows])
        popularity = pd.to_numeric(top_artists["popularity"])
        oldest = pd.Timestamp(now) - definition.LIST_MAX_AGE
        return cls(
            users=users,
            user=user[rows],
            time_range=top_artists["time_range"].to_numpy(dtype=object)[rows],
            place=np.arange(len(rows)) - start[of_list],
            artist=TextCodes.of(top_artists["spotify_id"]).codes[rows],
            genres=top_artists["genres"].to_numpy(dtype=object)[rows],
            popularity=popularity.to_numpy(dtype=np.float64, na_value=np.nan)[rows],
            is_old=(utc_times(top_artists["fetched_at"]) < oldest).to_numpy()[rows],
        )

    def rows(self, time_range: TimeRange) -> Integers:
        """The rows of these lists."""
        return np.flatnonzero(self.time_range == time_range)

    def fresh(self, time_range: TimeRange) -> Condition:
        """At most 35 days old. A list that was never fetched is not old but empty."""
        rows = self.rows(time_range)
        met = np.ones(len(self.users), dtype=np.bool_)
        met[self.user[rows[self.is_old[rows]]]] = False
        reason = f"the {time_range} list is older than {definition.LIST_MAX_AGE.days} days"
        return Condition(met, lambda _: reason)


def stability_metrics(lists: TopLists) -> dict[str, Score]:
    """How far the artists of the last weeks overlap with the long-term ones."""
    users, user = len(lists.users), lists.user
    both = [lists.rows("short_term"), lists.rows("long_term")]
    n = np.minimum.reduce([count(users, user[rows]) for rows in both])
    n = np.minimum(n, definition.LIST_LENGTH)
    short, long = (rows[lists.place[rows] < n[user[rows]]] for rows in both)
    in_long = among((user[short], lists.artist[short]), (user[long], lists.artist[long]))
    shared = count(users, user[short[in_long]])
    conditions = (
        lists.fresh("short_term"),
        lists.fresh("long_term"),
        at_least(definition.MIN_LISTED_ARTISTS, "artists in the short_term and long_term lists", n),
    )
    return {"taste_stability": Score(ratio(shared, 2 * n - shared), conditions)}


def genre_metrics(lists: TopLists) -> dict[str, Score]:
    """How evenly the genres of the top artists are spread; an artist counts once per genre."""
    users = len(lists.users)
    pairs = [
        (row, genre)
        for row in lists.rows("medium_term")
        for genre in lists.genres[row] or ()
        if genre is not None
    ]
    tagged = np.array([row for row, _ in pairs], dtype=np.int64)
    genre = TextCodes.of(objects([genre for _, genre in pairs])).codes
    user, artist = lists.user[tagged], lists.artist[tagged]
    _, an_artist = groups(user, artist)
    _, a_tag = groups(user, genre, artist)
    of_genre, a_row = groups(user[a_tag], genre[a_tag])
    artists, of_user = count(users, user[an_artist]), user[a_tag][a_row]
    genres = count(users, of_user)
    conditions = (
        lists.fresh("medium_term"),
        at_least(definition.MIN_ARTISTS_WITH_GENRES, "artists with genres", artists),
        at_least(definition.MIN_GENRES, "genres", genres),
    )
    h = entropy(users, of_user, np.bincount(of_genre))
    return {"genre_diversity": Score(evenness(h, genres), conditions)}


def mainstream_metrics(lists: TopLists) -> dict[str, Score]:
    """How popular the top artists are, the first ones with the highest weight."""
    users = len(lists.users)
    listed = lists.rows("medium_term")
    length = count(users, lists.user[listed])
    rated = listed[~np.isnan(lists.popularity[listed])]
    user, popularity = lists.user[rated], lists.popularity[rated]
    weight = 1 - ratio(lists.place[rated], length[user])
    score = ratio(total(users, user, weight * popularity), total(users, user, weight))
    conditions = (
        lists.fresh("medium_term"),
        at_least(
            definition.MIN_ARTISTS_WITH_POPULARITY, "artists with popularity", count(users, user)
        ),
    )
    return {"mainstream_score": Score(np.clip(score, 0, 100), conditions)}
