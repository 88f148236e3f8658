"""Alerts that were sent to the operator."""

from sqlalchemy import Integer, Table, Text, func, text

from spotify_pipeline.storage.tables.base import Instant, described, metadata, one_of, rule

EVENTS = (
    "run_failed",
    "account_blocked",
    "outage",
    "users_to_reconnect",
    "gaps_opened",
    "requests_waiting",
    "uploads_waiting",
)

alerts = Table(
    "alerts",
    metadata,
    described("event", Text, "Class of events.", primary_key=True),
    described(
        "since",
        Instant,
        "Events from this instant on have not been reported.",
        server_default=func.now(),
    ),
    described(
        "told", Integer, "How many were reported by the last alert.", server_default=text("0")
    ),
    described(
        "tried_at", Instant, "Last try: keeps two processes from sending at once.", nullable=True
    ),
    described("sent_at", Instant, "Last alert that arrived; NULL: none did.", nullable=True),
    one_of("event", EVENTS),
    rule("told", "told >= 0"),
    comment="One row per class of events: when the operator was last alerted.",
)
