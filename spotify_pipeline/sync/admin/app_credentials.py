"""Whether Spotify takes the app: its id and secret without a user, or one call of a user."""

from spotify_pipeline.settings import Settings
from spotify_pipeline.spotify.client import SpotifyApi
from spotify_pipeline.spotify.errors import AppBlocked, RateLimited, Reconnect, UserRefused
from spotify_pipeline.spotify.session import call_with_token
from spotify_pipeline.spotify.transport import Transport
from spotify_pipeline.storage.users.queries import last_refreshed, load_users
from spotify_pipeline.storage.work import api_budget
from spotify_pipeline.storage.work.leases import leased
from spotify_pipeline.sync.pipeline import Pipeline, oauth_client
from spotify_pipeline.sync.tokens import UserTokens

# One of them may be refused for reasons of their own.
USERS_TO_PROBE = 3


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
                assert user.token is not None
                conn.rollback()
                tokens = UserTokens(user, user.token, engine, pipeline.keyring, oauth, api.profile)
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
