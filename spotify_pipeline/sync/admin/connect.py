"""Connects a user with the OAuth code; probes whether Spotify accepts the app."""

from dataclasses import dataclass

from spotify_pipeline.app import register_user
from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.domain.model import SCOPES, Profile
from spotify_pipeline.errors import PipelineError
from spotify_pipeline.settings import Settings
from spotify_pipeline.spotify.client import SpotifyApi, call_with_token
from spotify_pipeline.spotify.errors import (
    AppBlocked,
    NotAllowlisted,
    RateLimited,
    Reconnect,
    SpotifyError,
    UserRefused,
)
from spotify_pipeline.spotify.http import Transport
from spotify_pipeline.spotify.oauth import Authorization, Grant, NotGranted
from spotify_pipeline.storage.postgres.types import Connection, IntegrityError
from spotify_pipeline.storage.users.connection import (
    AccountTaken,
    AnotherAccount,
    link_account,
    owner_of,
    store_connection,
)
from spotify_pipeline.storage.users.queries import last_refreshed, load_users, name_and_zone
from spotify_pipeline.storage.work import api_budget
from spotify_pipeline.storage.work.leases import leased
from spotify_pipeline.sync.pipeline import Pipeline, oauth_client
from spotify_pipeline.sync.tokens import UserTokens

DENIED = "Permission was refused on Spotify's page. To connect, run it again and agree there."
NO_CODE = "Spotify ended the authorization without a result. Run it again."
PREMIUM = (
    "Spotify blocks the app: its owner needs a Premium subscription. Check it, and that "
    "SPOTIFY_CLIENT_ID is the right app, then run it again."
)
BAD_CLIENT = (
    "Spotify does not accept SPOTIFY_CLIENT_ID or SPOTIFY_CLIENT_SECRET. Compare both with the "
    "app's page in the Spotify developer dashboard."
)

# One of them may be refused for reasons of their own.
USERS_TO_PROBE = 3


class ConnectFailed(PipelineError):
    """Nothing was connected and nothing stored; the message is for the user at the browser."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The connected user. `is_new`: the user did not exist before."""

    user_id: str
    display_name: str | None
    timezone: str
    is_new: bool


def connect(
    pipeline: Pipeline,
    authorization: Authorization,
    answer: str,
    user_id: str | None = None,
    timezone: str | None = None,
) -> Connected:
    """Redeem the query of Spotify's answer and store the connection, or nothing at all.

    `user_id` None: the user whose account it already is, else Spotify's id of the account.
    `timezone` None: what is known, UTC for a new user. Raises ConnectFailed.
    """
    grant = _redeem(pipeline.settings, authorization, answer)
    try:
        profile = pipeline.api.profile(grant.access_token)
    except NotAllowlisted:
        raise ConnectFailed(WHAT_TO_DO[ErrorCode.NOT_ALLOWLISTED]) from None
    except AppBlocked:
        raise ConnectFailed(PREMIUM) from None
    except SpotifyError as error:
        raise ConnectFailed(_in_words(error)) from None
    try:
        with pipeline.engine.begin() as conn:
            return _store(conn, pipeline, grant, profile, user_id, timezone)
    except AnotherAccount:
        raise ConnectFailed(
            "This user is connected to another Spotify account, and two accounts' listening must "
            "not be mixed. Log in at Spotify as before, or connect the account as another user."
        ) from None
    except AccountTaken as taken:
        raise ConnectFailed(
            f"This Spotify account is already the user {taken.owner}. Reconnect it as that user."
        ) from None
    except IntegrityError as error:
        if getattr(getattr(error.orig, "diag", None), "constraint_name", "") != (
            "uq_users_account_id"
        ):
            raise
        raise ConnectFailed("This Spotify account was just connected as another user.") from None


def _redeem(settings: Settings, authorization: Authorization, answer: str) -> Grant:
    """The tokens for the code in the answer: a refresh token and both scopes are among them."""
    # Without the shared rate limiter: a wrong secret in one terminal must not block all syncs.
    transport = Transport(connections=1)
    oauth = oauth_client(settings, transport)
    try:
        code = authorization.code_in(answer)
        grant = oauth.redeem(code, authorization.redirect_uri, authorization.code_verifier)
    except NotGranted as refused:
        raise ConnectFailed(DENIED if refused.denied else NO_CODE) from None
    except Reconnect:
        raise ConnectFailed(
            "Spotify did not take the code: it is good once, for some minutes, and only with "
            f"{authorization.redirect_uri} among the app's redirect URIs. Run it again."
        ) from None
    except AppBlocked:
        raise ConnectFailed(BAD_CLIENT) from None
    except SpotifyError as error:
        raise ConnectFailed(_in_words(error)) from None
    finally:
        transport.close()
    if grant.refresh_token is None:
        raise ConnectFailed(NO_CODE)
    if grant.scopes is not None and not set(SCOPES) <= set(grant.scopes):
        raise ConnectFailed(WHAT_TO_DO[ErrorCode.MISSING_SCOPE])
    return grant


def _in_words(error: SpotifyError) -> str:
    return f"{WHAT_TO_DO[error.code]} ({error.what_happened}) Nothing was stored: run it again."


def _store(
    conn: Connection,
    pipeline: Pipeline,
    grant: Grant,
    profile: Profile,
    user_id: str | None,
    timezone: str | None,
) -> Connected:
    assert grant.refresh_token is not None
    user_id = user_id or owner_of(conn, profile) or profile.spotify_user_id
    # Lock the user before linking the account, in the order of a sync's write: else a deadlock.
    before = name_and_zone(conn, user_id, lock=True)
    # Keeps a name that was set before.
    has_name = before is not None and before[0] is not None
    register_user(conn, user_id, timezone, None if has_name else profile.display_name)
    link_account(conn, user_id, profile)
    store_connection(
        conn,
        pipeline.keyring,
        user_id,
        grant.refresh_token,
        client_id=pipeline.settings.spotify_client_id or "",
        scopes=grant.scopes or SCOPES,
        authorized_at=pipeline.now(),
    )
    stored = name_and_zone(conn, user_id)
    assert stored is not None
    return Connected(user_id, *stored, is_new=before is None)


def probe(pipeline: Pipeline) -> bool:
    """Make one call to the Web API although calls are blocked; when it is answered, end the block.

    False: there is no user to make it for. A 429 blocks as any does. Raises SpotifyError and
    SealError.
    """
    settings, engine = pipeline.settings, pipeline.engine
    # Without the shared rate limiter, which would refuse the call.
    transport = Transport(connections=1)
    api, oauth = SpotifyApi(settings.api_url, transport), oauth_client(settings, transport)
    with engine.connect() as conn:
        users = last_refreshed(conn, settings.spotify_client_id or "", most=USERS_TO_PROBE)
    try:
        with leased(engine, users) as lease, engine.connect() as conn:
            for user in load_users(conn, lease.held):
                conn.rollback()
                tokens = UserTokens(user, engine, pipeline.keyring, oauth, api.profile)
                try:
                    call_with_token(tokens, api.profile)
                except RateLimited as limit:
                    with engine.begin() as change:
                        api_budget.block(change, limit.retry_after_seconds, limit.reason)
                    raise
                except UserRefused:
                    continue  # it says nothing about the others
                with engine.begin() as change:
                    api_budget.clear_block(change)
                    api_budget.note_answered(change)
                return True
        return False
    finally:
        transport.close()


def is_accepted(settings: Settings) -> bool:
    """Whether Spotify accepts the client id and secret: refreshes an invalid token.

    Spotify checks the client first, so an accepted one gets `invalid_grant`. Raises SpotifyError
    when it does not answer. Does not check the owner's Premium subscription.
    """
    transport = Transport(connections=1)
    try:
        oauth_client(settings, transport).refresh("invalid")
    except Reconnect:
        return True
    except AppBlocked:
        return False
    finally:
        transport.close()
    return True
