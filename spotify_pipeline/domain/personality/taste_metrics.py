"""The metrics of the music personality that come from the top artist lists."""

from datetime import datetime

import numpy as np
import pandas as pd

from spotify_pipeline.domain.listening.frames import Integers, positions, utc_times
from spotify_pipeline.domain.model import TimeRange
from spotify_pipeline.domain.personality import definition
from spotify_pipeline.domain.personality.scores import (
    Condition,
    Score,
    at_least,
    count,
    entropy,
    evenness,
    ratio,
    total,
)


class TopLists:
    """The users' top artist lists, and which of them are too old to use."""

    def __init__(self, users: pd.Index, top_artists: pd.DataFrame, now: datetime) -> None:
        """`users`: the users to compute; for `top_artists` see PersonalityInputs."""
        self.users = users
        self._now = now
        mine = top_artists[top_artists["user_id"].isin(users)]
        self._lists = mine.assign(user=positions(users, mine["user_id"])).sort_values(
            ["user", "time_range", "rank"]
        )

    def of(self, time_range: TimeRange) -> pd.DataFrame:
        """One list per user, best first: the given columns, `user` and `place` from 0."""
        listed = self._lists[self._lists["time_range"] == time_range]
        return listed.assign(place=listed.groupby("user").cumcount())

    def fresh(self, time_range: TimeRange) -> Condition:
        """At most 35 days old. A list that was never fetched is not old but empty."""
        listed = self._lists[self._lists["time_range"] == time_range]
        old = utc_times(listed["fetched_at"]) < pd.Timestamp(self._now) - definition.LIST_MAX_AGE
        met = np.ones(len(self.users), dtype=np.bool_)
        met[listed["user"].to_numpy()[old.to_numpy()]] = False
        reason = f"the {time_range} list is older than {definition.LIST_MAX_AGE.days} days"
        return Condition(met, lambda _: reason)


def stability_metrics(lists: TopLists) -> dict[str, Score]:
    """How far the artists of the last weeks overlap with the long-term ones."""
    users = len(lists.users)
    short, long = lists.of("short_term"), lists.of("long_term")
    lengths = [count(users, listed["user"].to_numpy()) for listed in (short, long)]
    n = np.minimum(np.minimum(*lengths), definition.LIST_LENGTH)
    first_n = [listed[listed["place"] < n[listed["user"]]] for listed in (short, long)]
    both = first_n[0].merge(first_n[1], on=["user", "spotify_id"])
    shared = count(users, both["user"].to_numpy())
    conditions = (
        lists.fresh("short_term"),
        lists.fresh("long_term"),
        at_least(definition.MIN_LISTED_ARTISTS, "artists in the short_term and long_term lists", n),
    )
    return {"taste_stability": Score(ratio(shared, 2 * n - shared), conditions)}


def genre_metrics(lists: TopLists) -> dict[str, Score]:
    """How evenly the genres of the top artists are spread; an artist counts once per genre."""
    users = len(lists.users)
    tagged = lists.of("medium_term")[["user", "spotify_id", "genres"]].explode("genres").dropna()
    tags = tagged.drop_duplicates().groupby(["user", "genres"]).size().reset_index(name="k")
    user = tags["user"].to_numpy()
    genres = count(users, user)
    artists = count(users, tagged.drop_duplicates(["user", "spotify_id"])["user"].to_numpy())
    conditions = (
        lists.fresh("medium_term"),
        at_least(definition.MIN_ARTISTS_WITH_GENRES, "artists with genres", artists),
        at_least(definition.MIN_GENRES, "genres", genres),
    )
    h = entropy(users, user, tags["k"].to_numpy())
    return {"genre_diversity": Score(evenness(h, genres), conditions)}


def mainstream_metrics(lists: TopLists) -> dict[str, Score]:
    """How popular the top artists are, the first ones with the highest weight."""
    users = len(lists.users)
    listed = lists.of("medium_term")
    length: Integers = count(users, listed["user"].to_numpy())
    rated = listed[listed["popularity"].notna()]
    user = rated["user"].to_numpy()
    weight = 1 - ratio(rated["place"], length[user])
    score = ratio(
        total(users, user, weight * rated["popularity"].to_numpy(dtype=np.float64)),
        total(users, user, weight),
    )
    conditions = (
        lists.fresh("medium_term"),
        at_least(
            definition.MIN_ARTISTS_WITH_POPULARITY, "artists with popularity", count(users, user)
        ),
    )
    return {"mainstream_score": Score(np.clip(score, 0, 100), conditions)}
