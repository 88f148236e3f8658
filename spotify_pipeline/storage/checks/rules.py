"""The one list of rules about what is stored; asset checks, alerts and doctor select from it.

A rule is data: a name, how bad it is, one sentence, and the query for who or what breaks it. The
queries are in `queries` (asked every hour) and `deep` (asked after a restore: what the database
itself forbids). How a table differs from its definition is no rule about rows: see `inspection`.

The hourly rules stay cheap with 100,000 users and a hundred million plays. What needs plays, days
or lists is asked of a slice of the users, another one each hour, and of their last 35 days. What
is in one row per user, or behind an index of the few that matter, is asked of all users.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, distinct, func, select

from spotify_pipeline.storage.checks import deep, queries
from spotify_pipeline.storage.checks.queries import (
    Query,
    Scope,
    ScopeOf,
    all_users,
    slice_of_the_hour,
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule about stored rows; `query` selects the (user_id, since) of what breaks it.

    An error is a fault of the pipeline; a warning is for users, devices or time to mend.
    """

    name: str
    severity: Literal["error", "warning"]
    query: Query
    description: str
    # The users whom the hourly run checks.
    scope: ScopeOf = all_users

    @property
    def command(self) -> str:
        """Lists the users whom the rule counts."""
        return f"spotify-pipeline users list --check {self.name}"


@dataclass(frozen=True, slots=True)
class Violations:
    """How many rows break a rule, of how many users, and since when if that is known."""

    rows: int
    users: int
    since: datetime | None


NO_FUTURE_INSTANTS = Rule(
    "no_instants_of_the_future",
    "warning",
    queries.future_instants,
    "No user was fetched, is covered or is due later than possible. A sync under a wrong clock "
    "left such instants; `spotify-pipeline doctor --mend` takes them back.",
    slice_of_the_hour,
)
POLLED_IN_TIME = Rule(
    "users_are_polled_in_time",
    "warning",
    queries.missed_polls,
    "No user whose connection works has been due for more than an hour. Spotify keeps a user's "
    "last 50 plays only, so a late poll may lose some.",
)
REQUESTS_SERVED = Rule(
    "requests_are_served",
    "warning",
    queries.unserved_requests,
    "No request has waited longer than 5 minutes for its run, apart from its own pause and from "
    "blocks by Spotify. The sensor sync_request_sensor asks for runs: see that it is switched on "
    "and that Dagster's daemon runs.",
)
UPLOADS_IMPORTED = Rule(
    "uploads_are_imported",
    "warning",
    queries.waiting_uploads,
    "No listening history that an app has handed over has waited longer than an hour for its "
    "import. The sensor history_import_sensor asks for runs: see that it is switched on and that "
    "Dagster's daemon runs.",
)
NO_NEW_GAPS = Rule(
    "no_new_gaps",
    "warning",
    queries.open_gaps,
    "No gap noticed in the last 7 days is open: plays of it are lost unless the user imports their "
    "own history. `spotify-pipeline doctor` says why polls were late. Older gaps stay in "
    "listening_gaps, because a permanent warning would be ignored.",
)
# Up to the user, and so no check in Dagster: an alert, and a list for the operator.
NO_USER_RECONNECTS = Rule(
    "no_user_has_to_reconnect",
    "warning",
    queries.needing_reconnect,
    "Spotify accepts every connection. A user whom it refuses has to reconnect; only they can.",
)
NONE_SUSPECT = Rule(
    "no_connection_is_suspect",
    "warning",
    queries.suspect_connections,
    "No connection was refused while many others were. That is an outage of Spotify or a fault of "
    "the app, not of the users: they are tried again every hour.",
)

HOURLY: tuple[Rule, ...] = (
    POLLED_IN_TIME,
    REQUESTS_SERVED,
    UPLOADS_IMPORTED,
    NO_NEW_GAPS,
    NONE_SUSPECT,
    NO_FUTURE_INSTANTS,
    Rule(
        "forgotten_users_are_gone",
        "error",
        queries.still_named,
        "No user forgotten more than an hour ago is still to be purged from Dagster's storage. The "
        "sensor partition_reconciler does that; a run that knew them and never ends holds it up.",
    ),
    Rule(
        "no_duplicate_plays",
        "error",
        queries.repeated_plays,
        "No recording is stored twice for a user at one instant, under two track ids. Different "
        "recordings may share a millisecond.",
        slice_of_the_hour,
    ),
    Rule(
        "days_sum_to_plays",
        "error",
        queries.wrong_sums,
        "Each of the last 35 days has the minutes, milliseconds and number of its stored plays. "
        "Days that wait for a rebuild are left out.",
        slice_of_the_hour,
    ),
    Rule(
        "minutes_fit_in_the_day",
        "warning",
        queries.crowded_days,
        "No day of the last 35 has more minutes than it is long, and 2 hours. Devices that were "
        "offline or play side by side can do that, so it is a warning.",
        slice_of_the_hour,
    ),
    Rule(
        "metrics_are_in_range",
        "error",
        queries.contradictory_metrics,
        "The metrics of a personality fit each other; what is NULL has a reason.",
    ),
    Rule(
        "ranks_are_contiguous",
        "error",
        queries.ranks_with_holes,
        "Every top list has the ranks 1, 2, 3 … without a hole.",
        slice_of_the_hour,
    ),
    Rule(
        "lists_are_not_empty",
        "warning",
        queries.empty_lists,
        "Spotify sends a top list with lines to every user with 50 plays in the last 28 days. "
        "Where it does not, the list from before is kept; `since` is when the oldest came.",
        slice_of_the_hour,
    ),
)

# Enforced by constraints, unique indexes and triggers; a restore without them can violate these.
DEEP: tuple[Rule, ...] = (
    Rule(
        "no_orphan_rows",
        "error",
        deep.orphans,
        "Every row belongs to a user, and the tracks and artists it names are stored.",
    ),
    Rule(
        "values_are_in_range",
        "error",
        deep.values_out_of_range,
        "Every row satisfies the CHECK constraints of its table.",
    ),
    Rule(
        "keys_are_unique",
        "error",
        deep.repeated_keys,
        "No primary key or unique index has a key twice.",
    ),
    Rule(
        "tallies_are_right",
        "error",
        deep.wrong_counters,
        "The numbers of plays and days that are kept of each user are those of the stored rows; "
        "`spotify-pipeline rebuild` counts again.",
    ),
    Rule(
        "zones_are_known",
        "error",
        deep.unknown_zones,
        "Every user lives in a time zone that the installed tzdata package has. The others have no "
        "days; `spotify-pipeline users set USER --timezone ZONE` gives them another zone.",
    ),
)

RULES = (*HOURLY, NO_USER_RECONNECTS, *DEEP)
rule_names = [rule.name for rule in RULES]


def count_violations(conn: Connection, rule: Rule, scope: Scope) -> Violations:
    """Count what breaks the rule among the users of the scope."""
    bad = rule.query(scope).subquery("bad")
    counts = select(func.count(), func.count(distinct(bad.c.user_id)), func.min(bad.c.since))
    return Violations(*conn.execute(counts).one())


def users_violating(conn: Connection, name: str, now: datetime) -> list[str]:
    """Ids of all users who break the rule, sorted; some may be in users no more."""
    (rule,) = (rule for rule in RULES if rule.name == name)
    bad = rule.query(all_users(conn, now)).subquery("bad")
    return sorted(conn.scalars(select(bad.c.user_id).distinct().where(bad.c.user_id.is_not(None))))
