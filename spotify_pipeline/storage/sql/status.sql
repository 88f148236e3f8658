-- The state of a user's syncs, for the app to show.
CREATE OR REPLACE VIEW sync_status AS
SELECT
    u.user_id,
    u.connection,
    CASE
        WHEN r.status = 'running' THEN 'running'
        WHEN r.status = 'queued' AND b.until IS NOT NULL THEN 'blocked'
        WHEN r.status = 'queued' THEN 'queued'
        WHEN e.error_code IS NOT NULL THEN 'failed'
        WHEN s.last_synced_at IS NULL THEN 'never'
        ELSE 'idle'
    END AS state,
    s.last_synced_at,
    c.next_allowed_at,
    r.id AS request_id,
    r.status AS request_status,
    e.error_code,
    e.error_message,
    k.expires_at AS reconnect_by,
    b.until AS blocked_until
FROM users AS u
JOIN sync_state AS s ON s.user_id = u.user_id
JOIN request_cooldown AS c ON c.user_id = u.user_id
LEFT JOIN user_tokens AS k ON k.user_id = u.user_id
LEFT JOIN account_block AS b ON true
LEFT JOIN LATERAL (
    SELECT q.id, q.status, q.finished_at, q.error_code, q.error_message
    FROM sync_requests AS q
    WHERE q.user_id = u.user_id
    ORDER BY q.id DESC
    LIMIT 1
) AS r ON true
-- The last error, while no request is open: that of the request, if no result was written after it
-- (its run may have died without writing one), else that of the sync which wrote its result last.
-- A user who has to reconnect has no failed sync: the connection says so.
CROSS JOIN LATERAL (
    SELECT
        coalesce(r.status IN ('queued', 'running'), false) AS is_open,
        coalesce(r.finished_at >= coalesce(s.recorded_at, '-infinity'), false) AS is_latest,
        u.connection IN ('disconnected', 'needs_reauth') AS must_reconnect
) AS i
CROSS JOIN LATERAL (
    SELECT
        CASE
            WHEN i.is_latest THEN r.error_code
            WHEN NOT i.is_open AND NOT i.must_reconnect THEN s.last_error_code
        END AS error_code,
        CASE
            WHEN i.is_latest THEN r.error_message
            WHEN NOT i.is_open AND NOT i.must_reconnect THEN s.last_error_message
        END AS error_message
) AS e;

COMMENT ON VIEW sync_status IS 'One row per user: state of their syncs, for the app to show.';
COMMENT ON COLUMN sync_status.user_id IS 'The user.';
COMMENT ON COLUMN sync_status.connection IS
    'disconnected, connected, expiring, needs_reauth or suspect.';
COMMENT ON COLUMN sync_status.state IS
    'never synced, idle, queued, running, failed (the last sync), or blocked (queued, and no call '
    'to Spotify may be made).';
COMMENT ON COLUMN sync_status.last_synced_at IS 'Last time any data was synced.';
COMMENT ON COLUMN sync_status.next_allowed_at IS
    'Next instant at which a request is accepted; NULL: now.';
COMMENT ON COLUMN sync_status.request_id IS 'The latest request; NULL: there was none.';
COMMENT ON COLUMN sync_status.request_status IS 'Its status.';
COMMENT ON COLUMN sync_status.error_code IS 'Why the last sync failed; NULL unless state is failed.';
COMMENT ON COLUMN sync_status.error_message IS 'The same as a sentence for the user.';
COMMENT ON COLUMN sync_status.reconnect_by IS
    'When the connection expires unless the user reconnects.';
COMMENT ON COLUMN sync_status.blocked_until IS
    'Until when no call may be made, because of Spotify or of our own limit of the day; NULL: they may.';
