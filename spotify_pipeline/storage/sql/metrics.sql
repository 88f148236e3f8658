-- The figures that `spotify-pipeline metrics` exports. Counts only, never a user id. Reads a row per
-- user at most and no plays, so it takes well under a second at 100,000 users.

CREATE OR REPLACE VIEW metrics AS
SELECT 'plays' AS name, '' AS label, coalesce(sum(t.plays), 0)::double precision AS value
FROM listening_tallies AS t
UNION ALL
SELECT 'users', c.connection, count(u.user_id)
FROM unnest('{disconnected,connected,expiring,needs_reauth,suspect}'::text[]) AS c (connection)
LEFT JOIN users AS u ON u.connection = c.connection
GROUP BY c.connection
UNION ALL
SELECT 'open_gaps', '', count(*) FROM listening_gaps AS g WHERE g.closed_at IS NULL
UNION ALL
SELECT 'requests_waiting', '', count(*) FROM sync_requests AS r WHERE r.status = 'queued'
UNION ALL
SELECT 'oldest_request_seconds', '',
    coalesce(extract(epoch FROM now() - min(r.requested_at)), 0)::double precision
FROM sync_requests AS r WHERE r.status = 'queued'
UNION ALL
-- NULL, and so no figure, before the first poll.
SELECT 'last_poll_seconds', '',
    extract(epoch FROM now() - max(s.plays_fetched_at))::double precision
FROM sync_state AS s
UNION ALL
SELECT 'tokens_expiring', '', count(*) FROM user_tokens AS k
WHERE k.expires_at BETWEEN now() AND now() + interval '30 days'
UNION ALL
SELECT 'imports', c.status, count(i.id)
FROM unnest('{open,closed,succeeded,failed}'::text[]) AS c (status)
LEFT JOIN history_imports AS i ON i.status = c.status
GROUP BY c.status
UNION ALL
-- Who has to reconnect is counted under `users`: that is no failure of a sync.
SELECT 'failed_users', s.last_error_code, count(*)
FROM sync_state AS s JOIN users AS u ON u.user_id = s.user_id
WHERE s.last_error_code IS NOT NULL AND u.connection NOT IN ('disconnected', 'needs_reauth')
GROUP BY s.last_error_code;

COMMENT ON VIEW metrics IS 'One row per figure that is exported to Prometheus; never a user id.';
COMMENT ON COLUMN metrics.name IS 'Which figure.';
COMMENT ON COLUMN metrics.label IS 'The connection, status or error code that it is of; empty: of all.';
COMMENT ON COLUMN metrics.value IS 'A count, or seconds.';
