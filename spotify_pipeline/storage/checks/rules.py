"""What has to hold of the stored rows, as data: rules, each with the query for what breaks it.

The hourly look stays cheap with 100,000 users and a hundred million plays. What needs plays, days
or lists is asked of a slice of the users, another one each hour, and of their last 35 days; what
needs all of somebody's plays, of a smaller slice. What stands in one row per user, or behind an
index of the few that matter, is asked of everybody.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, distinct, func, select

from spotify_pipeline.domain import steps as s
from spotify_pipeline.storage.checks import queries as q
from spotify_pipeline.storage.checks.lists import empty_lists, ranks_with_holes
from spotify_pipeline.storage.checks.orphans import orphans
from spotify_pipeline.storage.checks.queries import Query
from spotify_pipeline.storage.checks.scopes import (
    Scope,
    ScopeOf,
    all_users,
    slice_of_plays,
    slice_of_the_hour,
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule about the table of a step; `queries` select the (user_id, since) of what breaks it.

    `severe`: the pipeline itself is wrong. Otherwise people, devices or time make and mend it.
    """

    name: str
    step: str
    severe: bool
    description: str
    queries: tuple[Query, ...]
    # Of whom it is asked each hour.
    scope: ScopeOf = slice_of_the_hour
    # Cheap enough to ask of one user right after each of their syncs.
    of_one: bool = False

    @property
    def command(self) -> str:
        """Lists the names that the check only counts."""
        return f"spotify-pipeline users list --check {self.name}"


@dataclass(frozen=True, slots=True)
class Finding:
    """How many rows break a rule, of how many users, and since when if that is known."""

    rows: int = 0
    users: int = 0
    since: datetime | None = None


def _rules() -> Iterator[Rule]:
    yield Rule(
        "no_duplicate_plays",
        s.RECENTLY_PLAYED,
        True,
        "No recording is stored twice for a user at one instant. Different recordings may share a "
        "millisecond.",
        (q.repeated_plays,),
    )
    yield Rule(
        "users_are_polled_in_time",
        s.RECENTLY_PLAYED,
        False,
        "Nobody whose connection works has been due for more than an hour. Spotify keeps a "
        "listener's last 50 plays only, so a late poll may lose some.",
        (q.missed_polls,),
        scope=all_users,
    )
    yield Rule(
        "no_instants_of_the_future",
        s.RECENTLY_PLAYED,
        False,
        "Nobody was fetched, is covered or is due later than can be. A sync under a wrong clock "
        "left such instants; `spotify-pipeline doctor --mend` takes them back.",
        (q.future_instants,),
    )
    yield Rule(
        "requests_are_served",
        s.RECENTLY_PLAYED,
        False,
        "No request has waited longer than 5 minutes for its run, apart from its own pause and "
        "from blocks by Spotify. The sensor sync_request_sensor asks for runs: see that it is "
        "switched on and that Dagster's daemon runs.",
        (q.unserved_requests,),
        scope=all_users,
    )
    yield Rule(
        "forgotten_people_are_gone",
        s.RECENTLY_PLAYED,
        True,
        "Nobody forgotten more than an hour ago is still to be scrubbed from Dagster's storage. "
        "The sensor partition_reconciler does that; a run that knew them and never ends holds it "
        "up.",
        (q.still_named,),
        scope=all_users,
    )
    yield Rule(
        "no_new_gaps",
        s.RECENTLY_PLAYED,
        False,
        "No gap noticed in the last 7 days is open. Older ones stay in listening_gaps: only an "
        "import can fill them, and nobody reads a warning that never goes.",
        (q.open_gaps,),
        scope=all_users,
    )
    yield Rule(
        "nobody_has_to_reconnect",
        s.RECENTLY_PLAYED,
        False,
        "Spotify accepts every connection. Who it refuses has to reconnect; only they can.",
        (q.needing_reconnect,),
        scope=all_users,
    )
    yield Rule(
        "days_sum_to_plays",
        s.DAILY_LISTENING,
        True,
        "Each of the last 35 days has the minutes, milliseconds and number of its stored plays. "
        "Days that wait for a rebuild are left out.",
        (q.wrong_sums,),
        of_one=True,
    )
    yield Rule(
        "tallies_are_right",
        s.DAILY_LISTENING,
        True,
        "The numbers of plays and days that are kept of each user are those of the stored rows. A "
        "restore without triggers or a hand in the tables can part them; `spotify-pipeline "
        "rebuild` counts again.",
        (q.wrong_tallies,),
        scope=slice_of_plays,
    )
    yield Rule(
        "zones_are_known",
        s.DAILY_LISTENING,
        True,
        "Everybody lives in a time zone that the installed tzdata package has. Who does not has no "
        "days, and the other rules about days leave them out; `spotify-pipeline users set USER "
        "--timezone ZONE` gives them another.",
        (q.unknown_zones,),
        scope=all_users,
    )
    yield Rule(
        "minutes_fit_in_the_day",
        s.DAILY_LISTENING,
        False,
        "No day of the last 35 has more minutes than it is long, and 2 hours. Devices that were "
        "offline or play side by side can do that, so it is a warning.",
        (q.crowded_days,),
        of_one=True,
    )
    yield Rule(
        "metrics_are_in_range",
        s.MUSIC_PERSONALITY,
        True,
        "Every metric is in its range and fits the others; what is NULL has a reason.",
        (q.out_of_range,),
        scope=all_users,
        of_one=True,
    )
    for step in (*s.TOP_ARTISTS, *s.TOP_TRACKS):
        yield Rule(
            "ranks_are_contiguous",
            step,
            True,
            "Every list has the ranks 1, 2, 3 … without a hole.",
            (ranks_with_holes(step),),
        )
        yield Rule(
            "lists_are_not_empty",
            step,
            False,
            "Spotify sends a list with lines to everybody with 50 plays in the last 28 days. "
            "Where it does not, the list from before is kept; `since` is when the oldest came.",
            (empty_lists(step),),
        )
    for step in (*s.FETCHED, *s.REBUILT):
        yield Rule(
            "no_orphan_rows",
            step,
            True,
            "Every row belongs to a user, and the tracks and artists it names are stored.",
            orphans(step),
        )


RULES: tuple[Rule, ...] = tuple(_rules())


def look(conn: Connection, rule: Rule, scope: Scope) -> Finding:
    """Count what breaks the rule among the users of the scope."""
    finding = Finding()
    for query in rule.queries:
        bad = query(scope).subquery("bad")
        rows, users, since = conn.execute(
            select(func.count(), func.count(distinct(bad.c.user_id)), func.min(bad.c.since))
        ).one()
        first = min((at for at in (finding.since, since) if at), default=None)
        # No user is counted twice: what belongs to nobody belongs to none of them.
        finding = Finding(finding.rows + rows, finding.users + users, first)
    return finding


def who_breaks(conn: Connection, name: str, now: datetime) -> list[str]:
    """Ids of all users who break the rules of this name, sorted; some may be in users no more."""
    scope = all_users(conn, now)
    queries = [query for rule in RULES if rule.name == name for query in rule.queries]
    found: set[str] = set()
    for query in queries:
        found.update(conn.scalars(select(query(scope).subquery("bad").c.user_id)))
    return sorted(found)


def rule_names() -> Sequence[str]:
    """Every name once."""
    return list(dict.fromkeys(rule.name for rule in RULES))
