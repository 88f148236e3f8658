"""Posts counts of what is wrong to the operator's alert hook, never names.

Every minute a tick compares the counts in the database with those last sent. So no fault has to be
recorded where it happens, and none is lost when a process dies or the hook is down. A table limits
all processes to one alert per class and hour. Only a process that dies between the hook's response
and its commit makes an alert come twice.
"""

import json
import logging
from collections.abc import Callable
from datetime import datetime

from spotify_pipeline.storage.checks import rules
from spotify_pipeline.storage.checks.scopes import Scope
from spotify_pipeline.storage.work import alerts
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.sync.webhooks import post

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

log = logging.getLogger(__name__)


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
