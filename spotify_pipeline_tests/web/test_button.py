"""The Sync button for states that are hard to wait for; the others are pressed in Chromium."""

from datetime import UTC, datetime, timedelta

import pytest

from spotify_pipeline.app import SyncStatus
from spotify_pipeline.web.dashboard import SYNCED, TOASTS, button

IDLE = {
    **{"user_id": "mira", "connection": "connected", "state": "idle", "last_synced_at": None},
    **{"next_allowed_at": None, "request_id": 7, "request_status": "succeeded"},
    **{"error_code": None, "error_message": None, "reconnect_by": None, "blocked_until": None},
}


@pytest.mark.parametrize(
    ("asked", "status", "toast"),
    [
        (7, {}, SYNCED),
        (6, {}, ""),
        (None, {}, ""),
        # A later sync succeeded, the request did not.
        (7, {"request_status": "failed"}, ""),
        (7, {"request_status": "failed", "state": "failed", "error_code": "CRASHED"}, "CRASHED"),
        (None, {"state": "failed", "error_code": "a code of a later version"}, "INTERNAL"),
    ],
)
def test_a_toast_is_about_the_end_of_the_users_own_request(
    asked: int | None, status: dict[str, object], toast: str
) -> None:
    shown = button(SyncStatus(**IDLE | status), asked)  # type: ignore[arg-type]
    assert shown.toast == TOASTS.get(toast, toast)


def test_the_button_is_disabled_until_the_instant_at_which_a_request_is_allowed() -> None:
    allowed = datetime.now(UTC) + timedelta(minutes=30)
    shown = button(SyncStatus(**IDLE | {"next_allowed_at": allowed}), None)  # type: ignore[arg-type]
    assert (shown.is_enabled, shown.label) == (False, "Sync again in 30 minutes")
    assert 1790 < shown.seconds <= 1800
    past = button(SyncStatus(**IDLE | {"next_allowed_at": allowed - timedelta(hours=1)}), None)  # type: ignore[arg-type]
    assert (past.is_enabled, past.label, past.seconds) == (True, "Sync now", 0)
