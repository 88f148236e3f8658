"""The texts of docs/app.md for the state of a sync, as the button shows them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil

from spotify_pipeline.app import SyncStatus
from spotify_pipeline.terminal import count

TOASTS = {
    "RECONNECT": "Spotify no longer lets us in. Reconnect Spotify with the same account as before.",
    "NOT_ALLOWLISTED": "Your Spotify account is not enabled for this app yet. The operator knows.",
    "MISSING_SCOPE": ("A permission is missing. Reconnect Spotify and accept both permissions."),
    "APP_BLOCKED": "Spotify does not let our app in at the moment. We are on it.",
    "CLIENT_MISMATCH": (
        "Your connection belongs to an earlier version of this app. Reconnect Spotify."
    ),
    "RATE_LIMITED": "Spotify asked us to slow down. Try again later.",
    "QUOTA_EXCEEDED": "We have asked Spotify as often as we may today. Try again later.",
    "SPOTIFY_UNAVAILABLE": "Spotify did not answer. Try again in a few minutes.",
    "BAD_RESPONSE": "Spotify answered something strange. Try again in a few minutes.",
    "CRASHED": "The sync was interrupted. Try again.",
    "CANCELLED": "The sync was cancelled.",
    "FORGOTTEN": "This account was deleted.",
    "INTERNAL": "Something failed on our side. Try again in a few minutes.",
}
SYNCED = "Synced. Your numbers are up to date."


@dataclass(frozen=True, slots=True)
class Button:
    """The Sync button. `seconds`: until it works again; `kind`: success, error or "" (no toast)."""

    state: str
    label: str
    is_enabled: bool
    needs_reconnect: bool
    seconds: int
    kind: str
    toast: str


def button(status: SyncStatus, asked: int | None) -> Button:
    """The button for a state; `asked` is the request whose end the user waits for."""
    seconds = _seconds_until(status.next_allowed_at)
    needs_reconnect = status.connection in ("disconnected", "needs_reauth")
    label, kind, toast = "Sync now", "", ""
    if status.state in ("queued", "running"):
        label = "Syncing…"
    elif status.state == "blocked":
        label = "Waiting for Spotify…"
        toast = "Your sync is queued: no call to Spotify may be made for a while."
    elif needs_reconnect:
        label = "Reconnect Spotify"
    elif seconds:
        label = f"Sync again in {count(ceil(seconds / 60), 'minute')}"
    if status.state == "failed" and status.error_code:
        kind, toast = "error", TOASTS.get(status.error_code, TOASTS["INTERNAL"])
    # Not by the state, which is idle too where a later sync succeeded after a failed request.
    elif asked is not None and (asked, "succeeded") == (status.request_id, status.request_status):
        kind, toast = "success", SYNCED
    is_enabled = not (seconds or needs_reconnect) and status.state in ("never", "idle", "failed")
    return Button(status.state, label, is_enabled, needs_reconnect, seconds, kind, toast)


def _seconds_until(instant: datetime | None) -> int:
    if instant is None:
        return 0
    return max(0, ceil((instant - datetime.now(UTC)).total_seconds()))
