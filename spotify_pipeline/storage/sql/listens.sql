-- Plays for analysts: names instead of ids, the local date, the time listened.
-- storage/tables/views.py has the comments of its columns.

CREATE OR REPLACE VIEW listens AS
SELECT
    p.user_id,
    p.played_at,
    day.local_date,
    t.name AS track,
    a.name AS artist,
    t.album_name AS album,
    -- The rule of domain/listening/days.py. A sum over a user and local date is the day's listened_ms.
    coalesce(
        p.ms_played,
        CASE WHEN p.gap_ms >= 30000 AND p.gap_ms < p.duration_ms THEN p.gap_ms END,
        p.duration_ms,
        0
    ) AS ms_listened,
    p.source
FROM (
    SELECT
        q.*,
        (extract(epoch FROM q.played_at - lag(q.played_at) OVER (
            PARTITION BY q.user_id ORDER BY q.played_at, q.track_id COLLATE "C"
        )) * 1000)::bigint AS gap_ms
    FROM plays AS q
) AS p
JOIN users AS u ON u.user_id = p.user_id
JOIN tracks AS t ON t.spotify_id = p.track_id
LEFT JOIN artists AS a ON a.spotify_id = coalesce(p.artist_id, t.artist_ids[1])
CROSS JOIN LATERAL (
    -- The latest local date that has begun, out of three candidates.
    SELECT max(c.date) AS local_date
    FROM (
        SELECT (p.played_at AT TIME ZONE 'UTC')::date + n AS date FROM generate_series(-1, 1) AS n
    ) AS c
    CROSS JOIN LATERAL (
        SELECT z.begins FROM day_starts AS z
        WHERE z.timezone = u.timezone AND z.since <= c.date
        ORDER BY z.since DESC LIMIT 1
    ) AS z
    WHERE (c.date + z.begins) AT TIME ZONE 'UTC' <= p.played_at
) AS day;
