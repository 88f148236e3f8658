"""Sync requests, the sync state of users, the API budget and the settings.

Times are by the database's `now()`, the one clock that all processes share; where a comment says
facts clock, by the injected clock of the process that fetched.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Identity,
    Index,
    Integer,
    Interval,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)

from spotify_pipeline.storage.tables.base import (
    Instant,
    described,
    error_code,
    metadata,
    one_of,
    rule,
    singleton_column,
    user_column,
)

STATUSES = ("queued", "running", "succeeded", "failed")
OPEN = "status IN ('queued', 'running')"
FINISHED = "status IN ('succeeded', 'failed')"

sync_requests = Table(
    "sync_requests",
    metadata,
    described("id", BigInteger, "Number of the request.", Identity(always=True), primary_key=True),
    user_column(),
    described(
        "requested_at", Instant, "When it was accepted.", server_default=text("clock_timestamp()")
    ),
    described(
        "requested_by",
        Text,
        "Who asked; by default the database login.",
        server_default=text("SESSION_USER"),
    ),
    described("status", Text, "queued, running, succeeded or failed.", server_default="queued"),
    described(
        "attempts", SmallInteger, "How often a run was started for it.", server_default=text("0")
    ),
    described("dispatch_key", Text, "Key of the latest run asked for; NULL before.", nullable=True),
    described("run_id", Text, "Dagster run that serves it.", nullable=True),
    described("started_at", Instant, "When it began to run.", nullable=True),
    described("finished_at", Instant, "When it succeeded or failed.", nullable=True),
    described("error_code", Text, "Why it failed; an error code.", nullable=True),
    described("error_message", Text, "The same as a sentence for the user.", nullable=True),
    described(
        "failures",
        SmallInteger,
        "How many attempts failed with a transient error; the third is final.",
        server_default=text("0"),
    ),
    described(
        "not_before",
        Instant,
        "Earliest start of the next run; NULL or past: at once.",
        nullable=True,
    ),
    one_of("status", STATUSES),
    error_code("error_code"),
    rule("requested_by", "char_length(requested_by) BETWEEN 1 AND 255"),
    rule("attempts", "attempts >= 0"),
    rule("failures", "failures >= 0"),
    rule("started", "status <> 'running' OR started_at IS NOT NULL"),
    rule("finished", f"(finished_at IS NOT NULL) = ({FINISHED})"),
    rule("failed", "(error_code IS NOT NULL) = (status = 'failed')"),
    rule("error_message", "error_message IS NULL OR status = 'failed'"),
    # One open request per user. The index holds open requests only, so it also finds the few
    # of them among years of finished ones.
    Index("uq_sync_requests_open", "user_id", unique=True, postgresql_where=text(OPEN)),
    # The cooldown reads a user's latest finished requests.
    Index("ix_sync_requests_user_id_id", "user_id", "id"),
    comment="One row per request for a sync. A trigger decides whether a request is accepted.",
)

request_locks = Table(
    "request_locks",
    metadata,
    user_column(primary_key=True),
    described(
        "changes",
        BigInteger,
        "How often a request began or ended or the connection changed: an older snapshot cannot "
        "lock the row.",
        server_default=text("0"),
    ),
    comment="One row per user, made with the user: locked while a request of theirs is decided.",
)

sync_state = Table(
    "sync_state",
    metadata,
    user_column(primary_key=True),
    described(
        "last_synced_at",
        Instant,
        "Last time any data was synced (facts clock).",
        nullable=True,
    ),
    described(
        "last_success_at",
        Instant,
        "Last sync in which every step succeeded (facts clock).",
        nullable=True,
    ),
    described(
        "recorded_at",
        Instant,
        "When the last result was written (database clock, unlike the two before).",
        nullable=True,
    ),
    described(
        "plays_fetched_at", Instant, "Last successful fetch of plays (facts clock).", nullable=True
    ),
    described(
        "tops_fetched_at",
        Instant,
        "Last successful fetch of all top lists (facts clock).",
        nullable=True,
    ),
    described(
        "consecutive_failures",
        Integer,
        "Failed syncs since the last success, without those in which no call could be made.",
        server_default=text("0"),
    ),
    described(
        "last_error_code", Text, "Why the last sync failed; NULL if it did not.", nullable=True
    ),
    described("last_error_message", Text, "The same as a sentence for the user.", nullable=True),
    described(
        "next_due_at", Instant, "When plays are to be polled next; NULL: now.", nullable=True
    ),
    described(
        "lease_id",
        Uuid(),
        "Lease of the process that writes for this user; NULL: none.",
        nullable=True,
    ),
    described("lease_until", Instant, "When the lease ends unless renewed.", nullable=True),
    error_code("last_error_code"),
    rule("consecutive_failures", "consecutive_failures >= 0"),
    rule("lease", "(lease_id IS NULL) = (lease_until IS NULL)"),
    # Finds the due users, every 15 minutes.
    Index("ix_sync_state_next_due_at", "next_due_at"),
    comment="One row per user, made with the user: state of their syncs.",
)

api_budget = Table(
    "api_budget",
    metadata,
    singleton_column(),
    described(
        "rate_tat",
        Instant,
        "Theoretical arrival time of the 30-second bucket (GCRA); in the past: it is empty.",
        server_default=func.now(),
    ),
    described(
        "day_slot",
        BigInteger,
        "The quarter of an hour, counted from 1970, that the first element of day_calls belongs "
        "to.",
        server_default=text("0"),
    ),
    described(
        "blocked_until",
        Instant,
        "No call before this instant; NULL or past: not blocked.",
        nullable=True,
    ),
    described(
        "blocked_reason",
        Text,
        "RATE: too many calls; QUOTA: the day's quota is used up; APP: Spotify refuses the app.",
        nullable=True,
    ),
    described(
        "updated_at", Instant, "Last change of the block or a bucket.", server_default=func.now()
    ),
    described(
        "day_calls",
        ARRAY(Integer),
        "Calls per quarter of an hour of the last 24 hours, newest first.",
        server_default=text("'{}'"),
    ),
    described(
        "day_full_until",
        Instant,
        "Until when our own day's limit allows no call, even for requests, as the request sensor "
        "last saw it; NULL or past: it allows some.",
        nullable=True,
    ),
    described(
        "unanswered_users",
        SmallInteger,
        "Consecutive users for whom Spotify did not answer; an answer resets it to 0.",
        server_default=text("0"),
    ),
    described(
        "outage_until",
        Instant,
        "Outage of Spotify (an open circuit breaker): no call before, then one probes; NULL: none.",
        nullable=True,
    ),
    rule("singleton", "singleton"),
    rule("unanswered_users", "unanswered_users >= 0"),
    one_of("blocked_reason", ("RATE", "QUOTA", "APP")),
    rule("blocked", "(blocked_until IS NULL) = (blocked_reason IS NULL)"),
    comment="One row: rate limit, quota and blocks of the developer app, for all processes.",
)

settings = Table(
    "settings",
    metadata,
    singleton_column(),
    described(
        "request_cooldown",
        Interval,
        "How long after a succeeded request a user waits before the next; '0' for no wait.",
        server_default=text("'01:00:00'::interval"),
    ),
    rule("singleton", "singleton"),
    rule("request_cooldown", "request_cooldown BETWEEN '0' AND '30 days'::interval"),
    comment="One row: settings that the operator changes with UPDATE.",
)
