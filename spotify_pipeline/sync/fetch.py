"""Fetches from Spotify what the selected steps need, for many users in parallel. Writes nothing."""

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from threading import Event
from typing import TypeVar

from spotify_pipeline.domain.due import CLOCKS_MAY_DIFFER
from spotify_pipeline.domain.error_codes import NOT_CONNECTED, ErrorCode
from spotify_pipeline.domain.model import PlaysPage, TopArtists, TopTracks
from spotify_pipeline.domain.outcome import (
    FETCHED,
    RECENTLY_PLAYED,
    TOP_ARTISTS,
    TOP_TRACKS,
    StepFailure,
)
from spotify_pipeline.domain.quota import priority_of
from spotify_pipeline.domain.sealing import SealError
from spotify_pipeline.spotify.client import call_with_token
from spotify_pipeline.spotify.errors import (
    AppBlocked,
    MissingScope,
    Outage,
    RateLimited,
    SpotifyError,
    Transient,
)
from spotify_pipeline.storage.postgres.locks import is_lock_timeout
from spotify_pipeline.storage.users.queries import User
from spotify_pipeline.sync.bisect import affects_one_user, warn
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.tokens import UserTokens

Response = PlaysPage | TopArtists | TopTracks
Result = TypeVar("Result")


# Users who are written in one transaction. A write costs as much as 13 users, before its first one.
BATCH_USERS = 50
# Fewer for requests, so that the first ones are answered sooner, for more CPU in all.
REQUESTED_USERS = 20
# A scheduled run skips data that was fetched so recently. 20 hours: a nightly run that
# starts a little earlier than the last one must not skip.
PLAYS_FRESH_FOR = timedelta(minutes=10)
TOPS_FRESH_FOR = timedelta(hours=20)


@dataclass(frozen=True, slots=True)
class FetchedUser:
    """Spotify's responses for one user: each step asked for has a response or a failure here."""

    user: User
    fetched_at: datetime
    responses: Mapping[str, Response] = field(default_factory=dict)
    failures: Mapping[str, StepFailure] = field(default_factory=dict)
    seconds: float = 0.0
    # Another session keeps the user's rows locked: nothing is to be written.
    is_locked: bool = False

    @property
    def user_id(self) -> str:
        """The user's id."""
        return self.user.user_id

    @property
    def plays(self) -> PlaysPage | None:
        """The recently-played page, if it was fetched."""
        page = self.responses.get(RECENTLY_PLAYED)
        return page if isinstance(page, PlaysPage) else None

    @property
    def top_artists(self) -> dict[str, TopArtists]:
        """The top artist lists fetched, by step."""
        return {step: top for step, top in self.responses.items() if isinstance(top, TopArtists)}

    @property
    def top_tracks(self) -> dict[str, TopTracks]:
        """The top track lists fetched, by step."""
        return {step: top for step, top in self.responses.items() if isinstance(top, TopTracks)}


def fetch_users(
    pipeline: Pipeline,
    users: Sequence[User],
    steps: Sequence[str],
    scheduled: bool = False,
    batch_users: int = BATCH_USERS,
) -> Generator[list[FetchedUser], None, None]:
    """Fetch for all these users with at most `settings.connections` threads.

    Yields them in order, in batches: while one is written the next ones are fetched. The caller
    closes the generator when it leaves it early. A user whose responses are slow or broken delays
    the others by one thread only. The lists of one or two users are fetched side by side.
    """
    wanted = [step for step in FETCHED if step in steps]
    if not wanted:
        yield [FetchedUser(user, pipeline.now()) for user in users]
        return
    interrupted = Event()
    connections = pipeline.settings.connections
    side_by_side = len(users) * len(wanted) <= connections

    def fetch(user: User) -> FetchedUser:
        asked = _without_fresh(user, wanted, pipeline.now()) if scheduled else wanted
        return _fetch_user(pipeline, user, asked, scheduled, interrupted, side_by_side)

    pipeline.rate_limiter.begin(len(users))
    workers = min(connections, len(users)) or 1
    pool = ThreadPoolExecutor(workers, thread_name_prefix="spotify")
    try:
        fetched = pool.map(fetch, users)
        while batch := list(islice(fetched, batch_users)):
            yield batch
    finally:
        # After an interrupt no thread starts another call, and calls that may take minutes are not
        # waited for. Otherwise all threads are done here.
        interrupted.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _without_fresh(user: User, steps: Sequence[str], now: datetime) -> list[str]:
    """The steps whose last successful fetch was not just now."""

    def fresh(fetched_at: datetime | None, lasts: timedelta) -> bool:
        # An instant of the future, which a wrong clock wrote, is not fresh.
        return fetched_at is not None and -CLOCKS_MAY_DIFFER <= now - fetched_at < lasts

    plays = fresh(user.plays_fetched_at, PLAYS_FRESH_FOR)
    tops = fresh(user.tops_fetched_at, TOPS_FRESH_FOR)
    return [step for step in steps if not (plays if step == RECENTLY_PLAYED else tops)]


def _fetch_user(
    pipeline: Pipeline,
    user: User,
    steps: Sequence[str],
    scheduled: bool,
    interrupted: Event,
    side_by_side: bool,
) -> FetchedUser:
    started, fetched_at = pipeline.monotonic(), pipeline.now()
    responses: dict[str, Response] = {}
    failures: dict[str, StepFailure] = {}
    # The failure of all steps that have neither.
    of_the_rest = _refusal(pipeline, user)
    try:
        tokens = None if of_the_rest else _tokens(pipeline, user, scheduled)

        def ask(step: str) -> Response | SpotifyError | SealError | None:
            if tokens is None or interrupted.is_set():
                return None
            try:
                return _fetch_step(pipeline, tokens, step, scheduled)
            except (SpotifyError, SealError) as error:
                return error

        left = list(steps)
        while left and not of_the_rest:
            # Lists go side by side once one was answered: what refuses one refuses them all.
            together = side_by_side and any(step != RECENTLY_PLAYED for step in responses)
            group, left = (left, []) if together else (left[:1], left[1:])
            for step, answer in zip(group, _each(ask, group), strict=True):
                if isinstance(answer, (SpotifyError, SealError)):
                    failures[step] = _failure(answer)
                    if _holds_for_other_steps(answer, step):
                        of_the_rest = failures[step]
                elif answer:
                    responses[step] = answer
    except Exception as error:
        if not affects_one_user(error):
            raise
        if is_lock_timeout(error):
            return FetchedUser(user, fetched_at, is_locked=True)
        warn("Fetching one user's data failed", error)
        of_the_rest = StepFailure.of(ErrorCode.INTERNAL)
    if of_the_rest:
        missing = [step for step in steps if step not in responses]
        failures = {step: failures.get(step, of_the_rest) for step in missing}
    return FetchedUser(user, fetched_at, responses, failures, pipeline.monotonic() - started)


def _each(ask: Callable[[str], Result], steps: Sequence[str]) -> list[Result]:
    """What `ask` returns for each of these steps, asked for in parallel."""
    if len(steps) <= 1:
        return [ask(step) for step in steps]
    with ThreadPoolExecutor(len(steps), thread_name_prefix="spotify") as pool:
        return list(pool.map(ask, steps))


def _fetch_step(pipeline: Pipeline, tokens: UserTokens, step: str, scheduled: bool) -> Response:
    priority = priority_of(step, scheduled=scheduled)
    pipeline.rate_limiter.check(priority)
    api, limit = pipeline.api, pipeline.settings.top_limit
    if step == RECENTLY_PLAYED:
        return call_with_token(tokens, api.recently_played, pipeline.now(), priority)
    if step in TOP_ARTISTS:
        return call_with_token(tokens, api.top_artists, TOP_ARTISTS[step], limit, priority)
    return call_with_token(tokens, api.top_tracks, TOP_TRACKS[step], limit, priority)


def _holds_for_other_steps(error: Exception, step: str) -> bool:
    """Whether the user's other calls would fail too: a refused user or app, a rate limit."""
    # Plays and top lists need a permission each: without the first the second may still do.
    plays_only = isinstance(error, MissingScope) and step == RECENTLY_PLAYED
    return not plays_only and not isinstance(error, Transient)


def _failure(error: SpotifyError | SealError) -> StepFailure:
    if isinstance(error, SealError):
        return StepFailure.of(ErrorCode.INTERNAL, str(error))
    return StepFailure(
        error.code,
        f"{error.what_to_do} ({error.what_happened})",
        error.what_to_do,
        is_held_back=isinstance(error, (RateLimited, AppBlocked, Outage)),
    )


def _tokens(pipeline: Pipeline, user: User, scheduled: bool) -> UserTokens:
    # The token's Spotify account has to be known before plays are fetched with it.
    priority = priority_of(RECENTLY_PLAYED, scheduled=scheduled)
    return UserTokens(
        user,
        pipeline.engine,
        pipeline.keyring,
        pipeline.oauth,
        lambda access_token: pipeline.api.profile(access_token, priority),
    )


def _refusal(pipeline: Pipeline, user: User) -> StepFailure | None:
    """Why no call can be made for this user, found without a call."""
    if user.connection == "disconnected":
        return StepFailure(ErrorCode.RECONNECT, NOT_CONNECTED, NOT_CONNECTED)
    if user.token is None or user.connection == "needs_reauth":
        return StepFailure.of(ErrorCode.RECONNECT)
    if user.token.client_id != pipeline.settings.spotify_client_id:
        return StepFailure.of(ErrorCode.CLIENT_MISMATCH)
    return None
