"""Sync requests and runs, the sync state of users, the API budget, settings and alerts.

Times are by the database's `now()`, the one clock that all processes share; where a comment says
facts clock, by the injected clock of the process that fetched.
"""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Double,
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
    optional,
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
    optional("dispatch_key", Text, "Key of the latest run asked for; NULL before."),
    optional("run_id", Text, "Dagster run that serves it."),
    optional("started_at", Instant, "When it began to run."),
    optional("finished_at", Instant, "When it succeeded or failed."),
    optional("error_code", Text, "Why it failed; an error code."),
    optional("error_message", Text, "The same as a sentence for the user."),
    described(
        "failures",
        SmallInteger,
        "How many attempts failed with a transient error; the third is final.",
        server_default=text("0"),
    ),
    optional("not_before", Instant, "Earliest start of the next run; NULL or past: at once."),
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
    optional("last_synced_at", Instant, "Last time any data was synced (facts clock)."),
    optional("last_success_at", Instant, "Last sync in which every step succeeded (facts clock)."),
    optional(
        "recorded_at",
        Instant,
        "When the last result was written (database clock, unlike the two before).",
    ),
    optional("plays_fetched_at", Instant, "Last successful fetch of plays (facts clock)."),
    optional("tops_fetched_at", Instant, "Last successful fetch of all top lists (facts clock)."),
    described(
        "consecutive_failures",
        Integer,
        "Failed syncs since the last success, without those in which no call could be made.",
        server_default=text("0"),
    ),
    optional("last_error_code", Text, "Why the last sync failed; NULL if it did not."),
    optional("last_error_message", Text, "The same as a sentence for the user."),
    optional("next_due_at", Instant, "When plays are to be polled next; NULL: now."),
    optional("lease_id", Uuid(), "Lease of the process that writes for this user; NULL: none."),
    optional("lease_until", Instant, "When the lease ends unless renewed."),
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
    optional("blocked_until", Instant, "No call before this instant; NULL or past: not blocked."),
    optional(
        "blocked_reason",
        Text,
        "RATE: too many calls; QUOTA: the day's quota is used up; APP: Spotify refuses the app.",
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
    optional(
        "day_full_until",
        Instant,
        "Until when our own day's limit allows no call, even for requests, as the request sensor "
        "last saw it; NULL or past: it allows some.",
    ),
    described(
        "unanswered_users",
        SmallInteger,
        "Consecutive users for whom Spotify did not answer; an answer resets it to 0.",
        server_default=text("0"),
    ),
    optional(
        "outage_until",
        Instant,
        "Outage of Spotify (an open circuit breaker): no call before, then one probes; NULL: none.",
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


OUTCOMES = ("synced", "failed", "skipped", "gone")

sync_run_users = Table(
    "sync_run_users",
    metadata,
    described("run_id", Text, "Dagster run.", primary_key=True),
    user_column(primary_key=True),
    optional("chunk", Integer, "Chunk of the run, from 0."),
    optional(
        "outcome",
        Text,
        "synced: every step succeeded; failed: one did not; skipped: not tried; gone: forgotten "
        "meanwhile; NULL until known.",
    ),
    optional("error_code", Text, "Why it failed or was skipped."),
    optional("new_plays", Integer, "Plays stored."),
    optional("seconds", Double, "How long it took."),
    described(
        "created_at", Instant, "When the user was added to the run.", server_default=func.now()
    ),
    rule("chunk", "chunk >= 0"),
    one_of("outcome", OUTCOMES),
    error_code("error_code"),
    rule("failed", "outcome <> 'failed' OR error_code IS NOT NULL"),
    rule("synced", "outcome <> 'synced' OR error_code IS NULL"),
    rule("figures", "new_plays >= 0 AND seconds >= 0"),
    Index("ix_sync_run_users_run_id_chunk", "run_id", "chunk"),
    # Retention deletes by age; forgetting a user deletes by user.
    Index("ix_sync_run_users_created_at", "created_at"),
    Index("ix_sync_run_users_user_id", "user_id"),
    comment="One row per user in a run of many users, with the outcome.",
)

sync_run_chunks = Table(
    "sync_run_chunks",
    metadata,
    described("run_id", Text, "Dagster run.", primary_key=True),
    described("chunk", Integer, "Number of the chunk, from 0.", primary_key=True),
    described("tries", Integer, "Tries; more than one after a crash."),
    described("started_at", Instant, "When the last try began.", server_default=func.now()),
    optional("seconds", Double, "Duration of that try; NULL: it did not end."),
    optional("api_calls", Integer, "Calls to Spotify in that try."),
    optional(
        "throttled_seconds", Double, "How long its calls waited for the rate limiter or a block."
    ),
    rule("chunk", "chunk >= 0"),
    rule("tries", "tries >= 1"),
    rule("figures", "seconds >= 0 AND api_calls >= 0 AND throttled_seconds >= 0"),
    # Retention deletes by age.
    Index("ix_sync_run_chunks_started_at", "started_at"),
    comment="One row per chunk of a run of many users: tries and cost.",
)


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
    optional("tried_at", Instant, "Last try: keeps two processes from sending at once."),
    optional("sent_at", Instant, "Last alert that arrived; NULL: none did."),
    one_of("event", EVENTS),
    rule("told", "told >= 0"),
    comment="One row per class of events: when the operator was last alerted.",
)
