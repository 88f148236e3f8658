"""Whether Spotify takes the app's id and secret, found without a user."""

from spotify_pipeline.settings import Settings
from spotify_pipeline.spotify.accounts import Accounts
from spotify_pipeline.spotify.errors import AppBlocked, Reconnect
from spotify_pipeline.spotify.transport import Transport


def is_accepted(settings: Settings) -> bool:
    """Asks for a token in nobody's name: who is known is told that nobody's consent is missing.

    Raises SpotifyError when that cannot be found out now. The owner's Premium is not asked for.
    """
    transport = Transport(connections=1)
    secret = settings.spotify_client_secret
    accounts = Accounts(
        settings.accounts_url,
        settings.spotify_client_id or "",
        secret.get_secret_value() if secret else None,
        transport,
    )
    try:
        accounts.refresh("nobody")
    except Reconnect:
        return True
    except AppBlocked:
        return False
    finally:
        transport.close()
    return True
