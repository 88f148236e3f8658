"""The check of `doctor` that looks at the budget of the developer account."""

from collections.abc import Iterator

from spotify_pipeline.cli.doctor.finding import NOTE, OK, PROBLEM, Finding, problem
from spotify_pipeline.domain.quota import BudgetState, Quota
from spotify_pipeline.domain.sealing import SealError
from spotify_pipeline.settings import Settings
from spotify_pipeline.spotify.errors import SpotifyError
from spotify_pipeline.storage.postgres.engine import database_now
from spotify_pipeline.storage.postgres.types import Engine
from spotify_pipeline.storage.users.queries import count_users
from spotify_pipeline.storage.work import api_budget
from spotify_pipeline.sync.admin.connect import is_accepted, probe
from spotify_pipeline.sync.pipeline import open_pipeline
from spotify_pipeline.terminal import count, instant

_BLOCKED = {
    "RATE": "Spotify asked us to slow down; the work goes on by itself after that, or at once "
    "when `spotify-pipeline doctor --probe` finds that Spotify answers",
    "QUOTA": "the day's quota is used up; the work goes on by itself after that, or at once when "
    "`spotify-pipeline doctor --probe` finds that Spotify answers",
    "APP": "Spotify refuses the app: check SPOTIFY_CLIENT_ID, SPOTIFY_CLIENT_SECRET and the "
    "owner's Premium subscription",
}


def rate_limits(settings: Settings, engine: Engine) -> Iterator[Finding]:
    """The remaining budget of calls to Spotify, and what blocks it.

    A block of the app ends at once when Spotify takes the app's id and secret: the next call finds
    out the rest.
    """
    with engine.connect() as conn:
        state, quota = api_budget.read_state(conn), api_budget.quota_of(settings)
        ignored = api_budget.ignored_instants(conn)
        active = count_users(conn, "active", database_now(conn))
    if ignored:
        yield Finding(
            "api budget",
            NOTE,
            f"{' and '.join(ignored)} of api_budget lie further in the future than they can, "
            "as after a wrong clock or a restore; they are ignored",
            "check the clock of the database's machine",
        )
    if state.outage_until is not None:
        yield Finding(
            "api budget",
            PROBLEM,
            "Spotify did not answer several users in a row: one call probes every 10 minutes, and "
            "all other calls wait",
            "nothing, it ends by itself; `spotify-pipeline doctor --probe` tries now",
        )
    elif not state.is_blocked:
        yield Finding("api budget", OK, f"not blocked; {_left(state, quota)}")
        if quota.calls_per_day:
            yield _capacity(quota, active)
        if quota.calls_per_window:
            yield _pace(quota, active)
    elif state.blocked_reason == "APP" and _accepted(settings):
        with engine.begin() as conn:
            api_budget.make_probe_due(conn)
        yield Finding(
            "api budget",
            NOTE,
            "the app was refused, and Spotify takes its id and secret now: the next call tries "
            "whether all is well",
        )
    else:
        yield Finding(
            "api budget",
            PROBLEM,
            f"{state.blocked_reason}: no call before {instant(state.blocked_until)}",
            _BLOCKED[state.blocked_reason or "RATE"],
        )


def probed(settings: Settings) -> Iterator[Finding]:
    """Probes the Web API with one call in spite of a block; a response ends the block."""
    with open_pipeline(settings) as pipeline:
        try:
            asked = probe(pipeline)
        except (SpotifyError, SealError) as error:
            sentence = f"one call was made in vain: {error}"
            if isinstance(error, SpotifyError):
                yield Finding("probe", PROBLEM, sentence, error.what_to_do)
            else:
                yield problem("probe", sentence)
            return
    if asked:
        yield Finding("probe", OK, "Spotify answered one call; nothing is blocked now")
    else:
        yield Finding(
            "probe", NOTE, "no call was made: no user is connected, or all are being synced now"
        )


def _capacity(quota: Quota, active: int) -> Finding:
    """How many users the day's calls serve, beside those who are active."""
    hourly, every_2_hours = quota.users_served(1), quota.users_served(2)
    serve = (
        f"{quota.calls_per_day:,} serve {count(hourly, 'user')} with polls every hour, "
        f"{every_2_hours:,} with polls every 2"
    )
    if active <= every_2_hours:
        return Finding("daily calls", OK, serve)
    return Finding(
        "daily calls",
        NOTE,
        f"{serve}, and {active:,} are active: top lists, then plays, are fetched less often",
        "ask Spotify for a larger quota, then raise SPOTIFY_PIPELINE_CALLS_PER_DAY "
        "(docs/capacity.md)",
    )


def _pace(quota: Quota, active: int) -> Finding:
    """How many users' calls of a day fit into a day at the pace, beside those who are active."""
    most = quota.users_at_pace()
    serve = (
        f"{quota.calls_per_window:,} calls in 30 seconds serve {count(most, 'user')} with polls "
        "every hour"
    )
    if active <= most:
        return Finding("pace", OK, serve)
    return Finding(
        "pace",
        NOTE,
        f"{serve}, and {active:,} are active: their calls do not fit into a day, so all come late, "
        "and the longest waiting first",
        "raise SPOTIFY_PIPELINE_CALLS_PER_30S as far as Spotify lets you (docs/capacity.md)",
    )


def _left(state: BudgetState, quota: Quota) -> str:
    day, pace = "no limit per day", "no limit"
    if quota.calls_per_day:
        left = state.calls_left(quota)
        day = f"{left:,} of {quota.calls_per_day:,} calls of 24 hours are left"
    if quota.calls_per_window:
        pace = f"at most {quota.calls_per_window:,}"
    return f"{day}, {pace} in 30 seconds"


def _accepted(settings: Settings) -> bool:
    try:
        return is_accepted(settings)
    except SpotifyError:
        return False  # unknown: the block stays, and `reach` reports the cause
