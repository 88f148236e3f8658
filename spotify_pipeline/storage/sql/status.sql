-- What the app shows about a person's syncs.
CREATE OR REPLACE VIEW sync_status AS
SELECT
    u.user_id,
    u.connection,
    CASE
        WHEN r.status = 'running' THEN 'running'
        WHEN r.status = 'queued' AND b.blocked_until IS NOT NULL THEN 'blocked'
        WHEN r.status = 'queued' THEN 'queued'
        WHEN f.failed THEN 'failed'
        WHEN s.last_synced_at IS NULL THEN 'never'
        ELSE 'idle'
    END AS state,
    s.last_synced_at,
    c.next_allowed_at,
    r.id AS request_id,
    r.status AS request_status,
    CASE WHEN f.failed THEN coalesce(s.last_error_code, r.error_code) END AS error_code,
    CASE
        WHEN f.failed AND s.last_error_code IS NOT NULL THEN s.last_error_message
        WHEN f.failed THEN r.error_message
    END AS error_message,
    k.expires_at AS reconnect_by,
    b.blocked_until
FROM users AS u
JOIN sync_state AS s ON s.user_id = u.user_id
JOIN request_cooldown AS c ON c.user_id = u.user_id
LEFT JOIN user_tokens AS k ON k.user_id = u.user_id
LEFT JOIN api_budget AS b ON b.blocked_until > clock_timestamp()
LEFT JOIN LATERAL (
    SELECT q.id, q.status, q.finished_at, q.error_code, q.error_message
    FROM sync_requests AS q
    WHERE q.user_id = u.user_id
    ORDER BY q.id DESC
    LIMIT 1
) AS r ON true
-- Failed: nothing is open, and no sync of any kind has succeeded since.
CROSS JOIN LATERAL (
    SELECT coalesce(r.status NOT IN ('queued', 'running'), true) AND (
        s.last_error_code IS NOT NULL
        OR coalesce(r.status = 'failed', false)
        AND r.finished_at > coalesce(s.last_success_at, '-infinity')
    ) AS failed
) AS f;

COMMENT ON VIEW sync_status IS 'One row per person: how their syncs stand, for the app to show.';
COMMENT ON COLUMN sync_status.user_id IS 'The person.';
COMMENT ON COLUMN sync_status.connection IS
    'disconnected, connected, expiring, needs_reauth or suspect.';
COMMENT ON COLUMN sync_status.state IS
    'never synced, idle, queued, running, failed (the last sync), or blocked (queued, and Spotify '
    'asked us to wait).';
COMMENT ON COLUMN sync_status.last_synced_at IS 'Last time anything was brought up to date.';
COMMENT ON COLUMN sync_status.next_allowed_at IS
    'Next instant at which a request is accepted; NULL: now.';
COMMENT ON COLUMN sync_status.request_id IS 'The latest request; NULL: there was none.';
COMMENT ON COLUMN sync_status.request_status IS 'Its status.';
COMMENT ON COLUMN sync_status.error_code IS 'Why the last sync failed; NULL unless state is failed.';
COMMENT ON COLUMN sync_status.error_message IS 'The same for a person to read.';
COMMENT ON COLUMN sync_status.reconnect_by IS
    'When Spotify lets the connection die unless the person reconnects.';
COMMENT ON COLUMN sync_status.blocked_until IS
    'Until when Spotify lets us make no call at all; NULL: not blocked.';
