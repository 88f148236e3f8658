-- A user's listening day by day, for a chart without holes.

-- Exactly `days` rows, oldest first, ending today in the user's zone. minutes is 0 only where the
-- day is complete; where nothing is known it is NULL.
--
-- Days with a play have a row in daily_listening. The completeness of a day without one is computed
-- here, by the rule of domain/listening/coverage.py; day_starts, filled by the pipeline, says when it
-- begins and ends. While a user's days are stale, none is complete.
CREATE OR REPLACE FUNCTION listening_history(user_id text, days int)
    RETURNS TABLE (
        date date,
        minutes int,
        plays int,
        top_track_id text,
        top_track_name text,
        top_artist_id text,
        top_artist_name text,
        completeness text
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    target users;
    fetched_at timestamptz;
    known tstzmultirange;
    imported tstzmultirange;
    today date;
BEGIN
    IF listening_history.days IS NULL OR listening_history.days NOT BETWEEN 1 AND 10000 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'The number of days must be from 1 to 10000.';
    END IF;
    SELECT * INTO target FROM users AS u WHERE u.user_id = listening_history.user_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'SP404', MESSAGE = 'There is no such user.';
    END IF;
    -- A wrong clock may have stored an instant in the future.
    SELECT s.plays_fetched_at INTO fetched_at FROM sync_state AS s
    WHERE s.user_id = target.user_id AND s.plays_fetched_at <= now() + interval '1 minute';
    SELECT
        coalesce(range_agg(c.span), '{}'),
        coalesce(range_agg(c.span) FILTER (WHERE c.basis = 'export'), '{}')
    INTO known, imported
    FROM (
        SELECT c.basis, tstzrange(c.covered_from, least(c.covered_to, now()), '[]') AS span
        FROM coverage AS c WHERE c.user_id = target.user_id AND c.covered_from <= now()
    ) AS c;

    -- The latest local date that has begun, out of three candidates.
    SELECT max(d.date) INTO today
    FROM (
        SELECT (now() AT TIME ZONE 'UTC')::date + n AS date FROM generate_series(-1, 1) AS n
    ) AS d
    CROSS JOIN LATERAL (
        SELECT z.begins FROM day_starts AS z
        WHERE z.timezone = target.timezone AND z.since <= d.date
        ORDER BY z.since DESC LIMIT 1
    ) AS z
    WHERE (d.date + z.begins) AT TIME ZONE 'UTC' <= now();

    RETURN QUERY
    WITH span AS (
        SELECT
            d.date,
            (d.date + z.begins) AT TIME ZONE 'UTC' AS starts_at,
            lead((d.date + z.begins) AT TIME ZONE 'UTC') OVER (ORDER BY d.date) AS ends_at
        FROM (
            SELECT today - n AS date
            FROM generate_series(-1, listening_history.days - 1) AS n
        ) AS d
        CROSS JOIN LATERAL (
            SELECT z.begins FROM day_starts AS z
            WHERE z.timezone = target.timezone AND z.since <= d.date
            ORDER BY z.since DESC LIMIT 1
        ) AS z
    ),
    rated AS (
        SELECT
            d.date,
            l.minutes,
            l.plays,
            l.top_track_id,
            l.top_artist_id,
            CASE
                WHEN target.days_stale AND l.completeness = 'complete' THEN 'at_least'
                WHEN l.completeness IS NOT NULL THEN l.completeness
                WHEN NOT target.days_stale
                    AND (
                        fetched_at >= d.ends_at + interval '6 hours'
                        OR imported @> tstzrange(d.starts_at, d.ends_at + interval '6 hours', '[]')
                    )
                    AND known @> tstzrange(d.starts_at, d.ends_at, '[]')
                    AND NOT EXISTS (
                        SELECT FROM listening_gaps AS g
                        WHERE g.user_id = target.user_id AND g.closed_at IS NULL
                            AND g.gap_start <= d.ends_at AND g.gap_end >= d.starts_at
                    )
                    THEN 'complete'
                WHEN known && tstzrange(d.starts_at, d.ends_at, '[]') THEN 'at_least'
                ELSE 'unknown'
            END AS completeness
        FROM span AS d
        LEFT JOIN daily_listening AS l ON l.user_id = target.user_id AND l.date = d.date
        WHERE d.date <= today
    )
    SELECT
        j.date,
        CASE WHEN j.completeness = 'complete' THEN coalesce(j.minutes, 0) ELSE nullif(j.minutes, 0) END,
        CASE WHEN j.completeness = 'complete' THEN coalesce(j.plays, 0) ELSE j.plays END,
        j.top_track_id,
        t.name,
        j.top_artist_id,
        a.name,
        j.completeness
    FROM rated AS j
    LEFT JOIN tracks AS t ON t.spotify_id = j.top_track_id
    LEFT JOIN artists AS a ON a.spotify_id = j.top_artist_id
    ORDER BY j.date;
END
$$;
