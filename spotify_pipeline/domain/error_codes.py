"""The closed list of error codes, and for each what the user or the operator should do.

These codes are stored, shown to users and read by the app: they never change meaning.
"""

from enum import StrEnum


class ErrorCode(StrEnum):
    """Why a sync of a user failed."""

    RECONNECT = "RECONNECT"
    NOT_ALLOWLISTED = "NOT_ALLOWLISTED"
    MISSING_SCOPE = "MISSING_SCOPE"
    APP_BLOCKED = "APP_BLOCKED"
    CLIENT_MISMATCH = "CLIENT_MISMATCH"
    RATE_LIMITED = "RATE_LIMITED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    SPOTIFY_UNAVAILABLE = "SPOTIFY_UNAVAILABLE"
    BAD_RESPONSE = "BAD_RESPONSE"
    CRASHED = "CRASHED"
    CANCELLED = "CANCELLED"
    FORGOTTEN = "FORGOTTEN"
    INTERNAL = "INTERNAL"


WHAT_TO_DO: dict[ErrorCode, str] = {
    ErrorCode.RECONNECT: "Spotify no longer accepts this connection. Reconnect Spotify.",
    ErrorCode.NOT_ALLOWLISTED: (
        "Spotify does not allow this app to read this account. "
        "Add the account under Users and Access in the Spotify developer dashboard."
    ),
    ErrorCode.MISSING_SCOPE: (
        "The connection lacks a permission. Reconnect Spotify and accept both permissions."
    ),
    ErrorCode.APP_BLOCKED: (
        "Spotify refuses the app itself. Check SPOTIFY_CLIENT_ID, SPOTIFY_CLIENT_SECRET and the "
        "owner's Premium subscription, then run `spotify-pipeline doctor`."
    ),
    ErrorCode.CLIENT_MISMATCH: (
        "The token was issued to another client id. Reconnect with the configured app, or set "
        "SPOTIFY_CLIENT_ID to the one it was issued to."
    ),
    ErrorCode.RATE_LIMITED: "Spotify asked us to slow down. It is tried again after the wait.",
    ErrorCode.QUOTA_EXCEEDED: (
        "The developer account's daily quota is used up. It is tried again when Spotify allows."
    ),
    ErrorCode.SPOTIFY_UNAVAILABLE: "Spotify did not answer. It is tried again soon.",
    ErrorCode.BAD_RESPONSE: (
        "Spotify answered something that is not understood. It is tried again soon; "
        "if it stays, update spotify_pipeline."
    ),
    ErrorCode.CRASHED: "The sync was interrupted. Ask for it again.",
    ErrorCode.CANCELLED: "The sync was cancelled. Ask for it again.",
    ErrorCode.FORGOTTEN: "The user was deleted while syncing. Nothing was kept.",
    ErrorCode.INTERNAL: "Something failed inside the pipeline. See the run's log in Dagster.",
}

# RECONNECT too: the user, or an app for the user, ended the connection.
NOT_CONNECTED = "Spotify is not connected. Reconnect Spotify, then sync again."

# RECONNECT too, and no help if the user does the same again.
OTHER_ACCOUNT = (
    "This is another Spotify account than the one connected before. "
    "Reconnect Spotify with the same account as before."
)
