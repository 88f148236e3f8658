"""Connects a user: redeems the OAuth code and stores the sealed refresh token."""

from dataclasses import dataclass

from spotify_pipeline.app import register_user
from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.domain.model import SCOPES, Profile
from spotify_pipeline.errors import PipelineError
from spotify_pipeline.settings import Settings
from spotify_pipeline.spotify.authorization import Authorization, NotGranted
from spotify_pipeline.spotify.errors import AppBlocked, NotAllowlisted, Reconnect, SpotifyError
from spotify_pipeline.spotify.oauth import Grant
from spotify_pipeline.spotify.transport import Transport
from spotify_pipeline.storage.postgres.types import Connection, IntegrityError
from spotify_pipeline.storage.users.connection import store_connection
from spotify_pipeline.storage.users.queries import name_and_zone
from spotify_pipeline.storage.users.spotify_account import (
    AccountTaken,
    AnotherAccount,
    link_account,
    owner_of,
)
from spotify_pipeline.sync.pipeline import Pipeline, oauth_client

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
