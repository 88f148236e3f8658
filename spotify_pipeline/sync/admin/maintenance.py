"""Hourly maintenance: connection states, stale days, retention, and alerts to the operator."""

import json
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from spotify_pipeline.domain.listening.coverage import local_day
from spotify_pipeline.domain.zones import check_zone
from spotify_pipeline.storage.checks import rules
from spotify_pipeline.storage.checks.queries import Scope
from spotify_pipeline.storage.users.connection import drop_dead_tokens, refresh_connection_states
from spotify_pipeline.storage.users.queries import stale_user_ids
from spotify_pipeline.storage.work import alerts
from spotify_pipeline.storage.work.leases import Lease, leased, lock_held
from spotify_pipeline.storage.work.retention import (
    cut_plays,
    delete_abandoned_uploads,
    delete_old_logs,
    users_with_plays_before,
)
from spotify_pipeline.sync.bisect import affects_one_user, warn
from spotify_pipeline.sync.deliver import post
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.users import rebuild_users

AT_ONCE = 100
# One cut per user and week: daily cuts would cost as much each and delete little.
EVERY = timedelta(days=7)

log = logging.getLogger(__name__)


def run_maintenance(pipeline: Pipeline) -> dict[str, int]:
    """Run all maintenance; returns a count for each duty."""
    with pipeline.engine.begin() as conn:
        refresh_connection_states(conn)
    # Another transaction: it locks users from the first one on (deadlock).
    with pipeline.engine.begin() as conn:
        tokens = drop_dead_tokens(conn)
        stale = stale_user_ids(conn)
    logs = delete_old_logs(pipeline.engine, timedelta(days=pipeline.settings.keep_logs_days))
    for start in range(0, len(stale), AT_ONCE):
        rebuild_users(pipeline, stale[start : start + AT_ONCE])
    return {
        "dead tokens deleted": tokens,
        "log rows deleted": logs,
        "abandoned uploads deleted": delete_abandoned_uploads(pipeline.engine),
        "users rebuilt": len(stale),
        "plays deleted": delete_old_plays(pipeline),
    }


def delete_old_plays(pipeline: Pipeline) -> int:
    """Delete the plays that are older than the operator keeps; their days stay as they are.

    Cuts every user's plays at a local midnight, `keep_plays_days` ago; returns how many went.
    Users who are being synced, or whose days wait to be computed, are left for the next time.
    """
    keep = pipeline.settings.keep_plays_days
    if not keep:
        return 0
    deleted = 0
    with pipeline.engine.connect() as conn:
        zones = users_with_plays_before(conn, pipeline.now() - timedelta(days=keep) - EVERY)
    users = sorted(zones)
    for start in range(0, len(users), AT_ONCE):
        with leased(pipeline.engine, users[start : start + AT_ONCE]) as lease:
            for user_id in sorted(lease.held):
                try:
                    deleted += _cut(pipeline, lease, user_id, zones[user_id])
                except Exception as error:
                    if not affects_one_user(error):
                        raise
                    warn("One user's old plays could not be deleted", error)
    return deleted


def _cut(pipeline: Pipeline, lease: Lease, user_id: str, zone_name: str) -> int:
    zone = check_zone(zone_name)
    today = pipeline.now().astimezone(zone).date()
    cut = local_day(today - timedelta(days=pipeline.settings.keep_plays_days), zone).start
    # A transaction per user: one user may have a million plays.
    with pipeline.engine.begin() as conn:
        ours = lock_held(conn, [user_id], lease.lease_id).ours
        return cut_plays(conn, user_id, cut) if ours else 0


TIMEOUT_SECONDS = 5.0

# The rules that send an alert while users break them.
RULES = {
    "outage": rules.NONE_SUSPECT,
    "users_to_reconnect": rules.NO_USER_RECONNECTS,
    "requests_waiting": rules.REQUESTS_SERVED,
    "uploads_waiting": rules.UPLOADS_IMPORTED,
}

# What to do, and the command that says more.
WHAT_TO_DO = {
    "run_failed": (
        "Runs failed. Look at the failed users and what to do for each; other causes stand in "
        "the run's log in Dagster.",
        "spotify-pipeline users list --failed",
    ),
    "account_blocked": (
        "Spotify has blocked the developer account for a while. Doctor says why and until when.",
        "spotify-pipeline doctor",
    ),
    "outage": (
        "Spotify refuses many connections at once. This is not believed: they are tried again "
        "within the hour, and no user has to reconnect.",
        "spotify-pipeline users list --failed",
    ),
    "users_to_reconnect": (
        "Connections have ended. These users have to reconnect Spotify in the app.",
        rules.NO_USER_RECONNECTS.command,
    ),
    "gaps_opened": (
        "Plays were possibly lost between two polls. See whether something kept polls from "
        "running: `spotify-pipeline doctor`.",
        rules.NO_NEW_GAPS.command,
    ),
    "requests_waiting": (
        "Requests of users have waited longer than 5 minutes for a run. See whether Dagster's "
        "daemon runs and its sensor sync_request_sensor is on: `spotify-pipeline doctor`.",
        rules.REQUESTS_SERVED.command,
    ),
    "uploads_waiting": (
        "Listening histories that users handed over have waited longer than an hour for their "
        "import. See whether Dagster's daemon runs and its sensor history_import_sensor is on: "
        "`spotify-pipeline doctor`.",
        rules.UPLOADS_IMPORTED.command,
    ),
}


def notify_operator(pipeline: Pipeline, failed_runs: Callable[[datetime], int]) -> dict[str, int]:
    """Send what is new, one POST per class; return the counts that arrived.

    `failed_runs` counts the runs that failed since an instant. An alert that does not arrive is
    tried again at the next call.
    """
    if pipeline.settings.alert_url is None:
        return {}
    url = pipeline.settings.alert_url.get_secret_value()
    arrived = {}
    for alert, count in _due(pipeline, failed_runs):
        with pipeline.engine.begin() as conn:
            claimed = alerts.claim(conn, alert.event)
        if claimed and _post(url, alert, count):
            with pipeline.engine.begin() as conn:
                alerts.sent(conn, alert, count)
            arrived[alert.event] = count
    return arrived


def _due(
    pipeline: Pipeline, failed_runs: Callable[[datetime], int]
) -> list[tuple[alerts.PendingAlert, int]]:
    """The alerts to send now, and the count of each."""
    with pipeline.engine.begin() as conn:
        pending_alerts = alerts.pending_alerts(conn)
        now = Scope(pipeline.now())
        counts = {
            event: rules.count_violations(conn, rule, now).users for event, rule in RULES.items()
        }
        counts["account_blocked"] = alerts.account_blocked(conn)
        for event, count in counts.items():
            alerts.lower_reported_count(conn, event, count)
        gaps = alerts.gaps_opened(conn, pending_alerts["gaps_opened"].since)
    due = [
        (pending_alerts[event], count)
        for event, count in counts.items()
        if count > pending_alerts[event].reported or (count and _is_long_ago(pending_alerts[event]))
    ]
    happened = {"gaps_opened": gaps, "run_failed": failed_runs(pending_alerts["run_failed"].since)}
    return due + [(pending_alerts[event], count) for event, count in happened.items() if count]


def _is_long_ago(alert: alerts.PendingAlert) -> bool:
    return alert.sent_at is None or alert.now - alert.sent_at >= alerts.REMINDED_AFTER


def _post(url: str, alert: alerts.PendingAlert, count: int) -> bool:
    """Whether the alert arrived."""
    message, command = WHAT_TO_DO[alert.event]
    if not url.startswith("http"):
        return _post_with_apprise(url, f"{alert.event}: {count}", f"{message}\n{command}")
    body = {
        "event": alert.event,
        "count": count,
        "since": alert.since.isoformat(),
        "message": message,
        "command": command,
    }
    complaint = post("The alert hook", url, json.dumps(body).encode(), TIMEOUT_SECONDS)
    if complaint:
        log.warning("%s", complaint.sentence)
    return complaint is None


def _post_with_apprise(url: str, title: str, body: str) -> bool:
    """Send to a chat, mailbox or phone; apprise gives up after a minute at most."""
    from apprise import Apprise

    hook = Apprise()
    arrived = hook.add(url) and bool(hook.notify(title=title, body=body))
    if not arrived:
        log.warning("The alert hook did not take the alert.")
    return arrived
