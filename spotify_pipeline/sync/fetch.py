"""Asks Spotify for what the selected steps need, for many users side by side. Writes nothing."""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from threading import Event

from spotify_pipeline.domain.due import CLOCKS_MAY_DIFFER
from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.domain.model import PlaysPage, TopArtists, TopTracks
from spotify_pipeline.domain.quota import Priority, priority_of
from spotify_pipeline.domain.sealing import SealError
from spotify_pipeline.domain.steps import FETCHED, RECENTLY_PLAYED, TOP_ARTISTS, TOP_TRACKS
from spotify_pipeline.spotify.errors import (
    AppBlocked,
    MissingScope,
    Outage,
    RateLimited,
    SpotifyError,
    Transient,
)
from spotify_pipeline.spotify.session import UserSession
from spotify_pipeline.storage.postgres.locks import is_lock_timeout
from spotify_pipeline.storage.users.queries import User
from spotify_pipeline.sync.bisect import affects_one_user, warn
from spotify_pipeline.sync.outcome import StepFailure
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.tokens import UserTokens


@dataclass(slots=True)
class Collected:
    """Spotify's answers for one user. A step is in `failures` or its answer is here."""

    listener: User
    fetched_at: datetime
    plays: PlaysPage | None = None
    top_artists: dict[str, TopArtists] = field(default_factory=dict)
    top_tracks: dict[str, TopTracks] = field(default_factory=dict)
    failures: dict[str, StepFailure] = field(default_factory=dict)
    seconds: float = 0.0
    # How many times longer than usual this user waits for the next poll.
    due_stretch: float = 1.0
    # The first call that failed was not made, or refused for everybody: no failure of this user's.
    is_held_back: bool = False
    # Another session keeps the user's rows locked: nothing is to be written.
    is_locked: bool = False


# Users who are written at once. A write costs as much as 15 users, before its first one.
PART = 50
# A scheduled run does not fetch again what was fetched so lately. 20 hours: a nightly run that
# starts a little earlier than the last one must not skip.
PLAYS_FRESH_FOR = timedelta(minutes=10)
TOPS_FRESH_FOR = timedelta(hours=20)


def collect(
    pipeline: Pipeline,
    listeners: Sequence[User],
    steps: Sequence[str],
    scheduled: bool = False,
) -> Generator[list[Collected], None, None]:
    """Fetch for all these users with at most `settings.connections` threads.

    Yields them in parts, in order: while one is written the next ones are fetched. Close it when it
    is left before its end. One user's slow or broken answers delay nobody else's by more than a
    thread.
    """
    wanted = [step for step in FETCHED if step in steps]
    if not wanted:
        yield [Collected(listener, pipeline.now()) for listener in listeners]
        return

    def asked(listener: User) -> list[str]:
        return _without_fresh(listener, wanted, pipeline.now()) if scheduled else wanted

    interrupted = Event()

    def collect_one(listener: User) -> Collected:
        one = Collected(listener, pipeline.now())
        _collect_into(one, pipeline, asked(listener), scheduled, interrupted)
        return one

    pipeline.rate_limiter.begin()
    workers = min(pipeline.settings.connections, len(listeners)) or 1
    pool = ThreadPoolExecutor(workers, thread_name_prefix="spotify")
    try:
        everybody = pool.map(collect_one, listeners)
        while part := list(islice(everybody, PART)):
            stretch = pipeline.rate_limiter.due_stretch()
            for one in part:
                one.due_stretch = stretch
            yield part
    finally:
        # All is done here, unless this was interrupted: then nobody asks on, and calls that may
        # take minutes are not waited for.
        interrupted.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _without_fresh(listener: User, steps: Sequence[str], now: datetime) -> list[str]:
    """The steps whose last successful fetch is not a short while ago."""

    def fresh(fetched_at: datetime | None, lasts: timedelta) -> bool:
        # An instant of the future, which a wrong clock wrote, is not fresh.
        return fetched_at is not None and -CLOCKS_MAY_DIFFER <= now - fetched_at < lasts

    plays = fresh(listener.plays_fetched_at, PLAYS_FRESH_FOR)
    tops = fresh(listener.tops_fetched_at, TOPS_FRESH_FOR)
    return [step for step in steps if not (plays if step == RECENTLY_PLAYED else tops)]


def _collect_into(
    collected: Collected,
    pipeline: Pipeline,
    steps: Sequence[str],
    scheduled: bool,
    interrupted: Event,
) -> None:
    started = pipeline.monotonic()
    try:
        refusal = _ask(collected, pipeline, steps, scheduled, interrupted)
    except Exception as error:
        if not affects_one_user(error):
            raise
        collected.is_locked = is_lock_timeout(error)
        if collected.is_locked:
            return
        warn("Collecting one user's data failed", error)
        refusal = _failure(ErrorCode.INTERNAL)
    if refusal:
        for step in steps:
            if not _has(collected, step):
                collected.failures.setdefault(step, refusal)
    collected.seconds = pipeline.monotonic() - started


def _ask(
    collected: Collected,
    pipeline: Pipeline,
    steps: Sequence[str],
    scheduled: bool,
    interrupted: Event,
) -> StepFailure | None:
    """Every step's call. Returns the failure that condemns the steps without an answer."""
    if refusal := _refusal(pipeline, collected.listener):
        return refusal
    tokens = _tokens(pipeline, collected.listener, scheduled)
    for step in steps:
        if interrupted.is_set():
            break
        priority = priority_of(step, scheduled=scheduled)
        if refusal := _fetch(pipeline, tokens, step, priority, collected):
            return refusal
    return None


def _fetch(
    pipeline: Pipeline, tokens: UserTokens, step: str, priority: Priority, collected: Collected
) -> StepFailure | None:
    """One step's call. Returns the failure when it also condemns the user's other calls."""
    limit = pipeline.settings.top_limit
    session = UserSession(pipeline.api, tokens, priority)
    try:
        pipeline.rate_limiter.check(priority)
        if step == RECENTLY_PLAYED:
            collected.plays = session.recently_played(pipeline.now())
        elif step in TOP_ARTISTS:
            collected.top_artists[step] = session.top_artists(TOP_ARTISTS[step], limit)
        else:
            collected.top_tracks[step] = session.top_tracks(TOP_TRACKS[step], limit)
    except SpotifyError as error:
        message = f"{error.what_to_do} ({error.what_happened})"
        failure = StepFailure(error.code, message, error.what_to_do)
        if not collected.failures:
            collected.is_held_back = isinstance(error, (RateLimited, AppBlocked, Outage))
        collected.failures[step] = failure
        # Plays and top lists need a permission each: without the first the second may still do.
        plays_only = isinstance(error, MissingScope) and step == RECENTLY_PLAYED
        # A refusal of the user or the app, or a rate limit, holds for the next call too.
        return None if plays_only or isinstance(error, Transient) else failure
    except SealError as error:
        return _failure(ErrorCode.INTERNAL, str(error))
    return None


def _has(collected: Collected, step: str) -> bool:
    return (
        (step == RECENTLY_PLAYED and collected.plays is not None)
        or step in collected.top_artists
        or step in collected.top_tracks
    )


def _tokens(pipeline: Pipeline, listener: User, scheduled: bool) -> UserTokens:
    assert listener.token is not None
    # Whose a token is has to be known before plays are fetched with it.
    priority = priority_of(RECENTLY_PLAYED, scheduled=scheduled)
    return UserTokens(
        listener,
        listener.token,
        pipeline.engine,
        pipeline.keyring,
        pipeline.accounts,
        lambda access_token: pipeline.api.profile(access_token, priority),
    )


def _refusal(pipeline: Pipeline, listener: User) -> StepFailure | None:
    """Why this user cannot be asked for at all, found without a call."""
    token = listener.token
    if token is None or listener.connection in ("disconnected", "needs_reauth"):
        return _failure(ErrorCode.RECONNECT)
    if token.client_id != pipeline.settings.spotify_client_id:
        return _failure(ErrorCode.CLIENT_MISMATCH)
    return None


def _failure(code: ErrorCode, what_happened: str | None = None) -> StepFailure:
    detail = f" ({what_happened})" if what_happened else ""
    return StepFailure(code, WHAT_TO_DO[code] + detail)
