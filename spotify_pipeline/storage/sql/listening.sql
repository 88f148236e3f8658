-- What the web page shows of a user's stored plays. Unknown users have no rows.

-- When a local day begins, by the pipeline's own rules of time zones. A date far away is taken as the
-- first or the last day on which a user can have listened.
CREATE OR REPLACE FUNCTION day_begins(timezone text, date date) RETURNS timestamptz
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
    SELECT (d.date + z.begins) AT TIME ZONE 'UTC'
    FROM day_starts AS z
    CROSS JOIN (SELECT least(greatest(day_begins.date, '1970-01-02'), '9999-12-31') AS date) AS d
    WHERE z.timezone = day_begins.timezone AND z.since <= d.date
    ORDER BY z.since DESC LIMIT 1
$$;

-- When a local day ends: where the next one begins.
CREATE OR REPLACE FUNCTION day_ends(timezone text, date date) RETURNS timestamptz
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$ SELECT day_begins(day_ends.timezone, least(day_ends.date, '9999-12-30') + 1) $$;

-- The plays of a time with their listened milliseconds, by the rule of domain/listening/days.py.
-- `counted`: as a play, because an export lists skips too.
CREATE OR REPLACE FUNCTION heard_plays(user_id text, since timestamptz, until timestamptz)
    RETURNS TABLE (
        played_at timestamptz, track_id text, artist_id text, listened_ms bigint, counted boolean
    )
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
    ROWS 10000
AS $$
    SELECT
        h.played_at,
        h.track_id,
        h.artist_id,
        coalesce(
            h.ms_played,
            CASE WHEN h.gap >= 30000 AND h.gap < h.duration_ms THEN h.gap
                ELSE coalesce(h.duration_ms, 0) END
        )::bigint,
        h.source = 'api' OR h.ms_played >= 30000
    FROM (
        SELECT
            p.*,
            (extract(epoch FROM p.played_at - lag(p.played_at) OVER (
                ORDER BY p.played_at, p.track_id COLLATE "C"
            )) * 1000)::bigint AS gap
        FROM plays AS p
        WHERE p.user_id = heard_plays.user_id
            -- The estimate of the first play needs the play before it.
            AND p.played_at >= coalesce(
                (
                    SELECT max(q.played_at) FROM plays AS q
                    WHERE q.user_id = heard_plays.user_id AND q.played_at < heard_plays.since
                ),
                heard_plays.since
            )
            AND p.played_at < heard_plays.until
    ) AS h
    WHERE h.played_at >= heard_plays.since
$$;

-- The latest plays, at most 50, newest first.
CREATE OR REPLACE FUNCTION recent_plays(user_id text, plays int)
    RETURNS TABLE (
        played_at timestamptz, track_id text, track_name text, artist_id text, artist_name text
    )
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
    SELECT r.played_at, r.track_id, t.name, r.artist_id, a.name
    FROM (
        SELECT p.played_at, p.track_id, p.artist_id FROM plays AS p
        WHERE p.user_id = recent_plays.user_id AND (p.source = 'api' OR p.ms_played >= 30000)
        ORDER BY p.played_at DESC, p.track_id
        LIMIT least(greatest(recent_plays.plays, 0), 50)
    ) AS r
    JOIN tracks AS t ON t.spotify_id = r.track_id
    LEFT JOIN artists AS a ON a.spotify_id = r.artist_id
    ORDER BY r.played_at DESC, r.track_id
$$;

-- Milliseconds heard per quarter of an hour (counted from 1970) of the last days, at most 366. All
-- zones differ from UTC by whole quarters, so the app can turn them into local hours.
CREATE OR REPLACE FUNCTION listening_quarters(user_id text, days int)
    RETURNS TABLE (quarter bigint, listened_ms bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
    SELECT floor(extract(epoch FROM h.played_at) / 900)::bigint, sum(h.listened_ms)::bigint
    FROM heard_plays(
        listening_quarters.user_id,
        now() - least(greatest(listening_quarters.days, 0), 366) * interval '1 day',
        now()
    ) AS h
    GROUP BY 1
$$;

-- The most played tracks or artists of the local days from `first` to `last`, both included.
-- Ties: longest heard, first played, smallest id.
CREATE OR REPLACE FUNCTION listening_top(user_id text, kind text, first date, last date, length int)
    RETURNS TABLE (
        rank int, spotify_id text, name text, artist_name text, plays bigint, listened_ms bigint
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    zone text := (SELECT u.timezone FROM users AS u WHERE u.user_id = listening_top.user_id);
    lines int := least(greatest(listening_top.length, 0), 100);
BEGIN
    IF kind IS NULL OR kind NOT IN ('tracks', 'artists') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'The kind is tracks or artists.';
    END IF;
    RETURN QUERY
    WITH heard AS (
        SELECT
            CASE kind WHEN 'tracks' THEN h.track_id ELSE h.artist_id END AS id,
            count(*) AS plays,
            sum(h.listened_ms)::bigint AS heard,
            min(h.played_at) AS first_at
        FROM heard_plays(
            listening_top.user_id,
            day_begins(zone, first),
            day_ends(zone, last)
        ) AS h
        WHERE h.counted
        GROUP BY 1
    ),
    best AS (
        SELECT * FROM heard AS g WHERE g.id IS NOT NULL
        ORDER BY g.plays DESC, g.heard DESC, g.first_at, g.id COLLATE "C"
        LIMIT lines
    )
    SELECT
        (row_number() OVER (ORDER BY b.plays DESC, b.heard DESC, b.first_at, b.id COLLATE "C"))::int,
        b.id,
        coalesce(t.name, a.name, ''),
        CASE kind WHEN 'tracks' THEN a.name END,
        b.plays,
        b.heard
    FROM best AS b
    LEFT JOIN tracks AS t ON kind = 'tracks' AND t.spotify_id = b.id
    LEFT JOIN artists AS a
        ON a.spotify_id = CASE kind WHEN 'tracks' THEN t.artist_ids[1] ELSE b.id END
    ORDER BY 1;
END
$$;

-- The artists of the local days from `first` to `last` of whom no earlier play is stored, most
-- played first; `total` counts all of them. No row where no earlier play at all is stored: then it is
-- not known what was new.
CREATE OR REPLACE FUNCTION listening_discoveries(user_id text, first date, last date, length int)
    RETURNS TABLE (spotify_id text, name text, plays bigint, first_played_at timestamptz, total bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    zone text := (SELECT u.timezone FROM users AS u WHERE u.user_id = listening_discoveries.user_id);
    since timestamptz := day_begins(zone, first);
    until timestamptz := day_ends(zone, last);
    new text[];
BEGIN
    IF NOT EXISTS (
        SELECT FROM plays AS p
        WHERE p.user_id = listening_discoveries.user_id AND p.played_at < since
    ) THEN
        RETURN;
    END IF;
    -- Most artists were also played shortly before; all earlier plays are read for the others only.
    new := ARRAY(
        SELECT p.artist_id FROM plays AS p
        WHERE p.user_id = listening_discoveries.user_id
            AND p.played_at >= since AND p.played_at < until
            AND (p.source = 'api' OR p.ms_played >= 30000) AND p.artist_id IS NOT NULL
        EXCEPT
        SELECT r.artist_id FROM (
            SELECT p.artist_id FROM plays AS p
            WHERE p.user_id = listening_discoveries.user_id AND p.played_at < since
            ORDER BY p.played_at DESC LIMIT 10000
        ) AS r
    );
    IF new <> '{}' THEN
        new := ARRAY(
            SELECT unnest(new)
            EXCEPT
            SELECT p.artist_id FROM plays AS p
            WHERE p.user_id = listening_discoveries.user_id AND p.played_at < since
                AND p.artist_id = ANY (new)
        );
    END IF;
    RETURN QUERY
    SELECT h.artist_id, a.name, h.plays, h.first_at, cardinality(new)::bigint
    FROM (
        SELECT p.artist_id, count(*) AS plays, min(p.played_at) AS first_at
        FROM plays AS p
        WHERE p.user_id = listening_discoveries.user_id
            AND p.played_at >= since AND p.played_at < until
            AND (p.source = 'api' OR p.ms_played >= 30000) AND p.artist_id = ANY (new)
        GROUP BY 1
    ) AS h
    JOIN artists AS a ON a.spotify_id = h.artist_id
    ORDER BY h.plays DESC, h.first_at
    LIMIT least(greatest(listening_discoveries.length, 0), 100);
END
$$;

-- Every rank of the user's top lists as they stood so many days ago; a list that is not known from
-- then has no rows.
CREATE OR REPLACE FUNCTION top_ranks(user_id text, days_ago int)
    RETURNS TABLE (kind text, time_range text, spotify_id text, rank smallint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
    WITH past AS (
        SELECT now() - least(greatest(top_ranks.days_ago, 0), 36600) * interval '1 day' AS at
    ),
    history AS (
        SELECT 'artists' AS kind, user_id, time_range, spotify_id, rank, valid_from, valid_to
        FROM top_artists_history
        UNION ALL
        SELECT 'tracks', user_id, time_range, spotify_id, rank, valid_from, valid_to
        FROM top_tracks_history
    )
    SELECT h.kind, h.time_range, h.spotify_id, h.rank
    FROM history AS h, past
    WHERE h.user_id = top_ranks.user_id
        AND h.valid_from <= past.at AND (h.valid_to IS NULL OR h.valid_to > past.at)
$$;

-- Times in which plays may be missing, because more were played than Spotify keeps; latest first.
CREATE OR REPLACE FUNCTION open_gaps(user_id text)
    RETURNS TABLE (gap_start timestamptz, gap_end timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
    SELECT g.gap_start, g.gap_end FROM listening_gaps AS g
    WHERE g.user_id = open_gaps.user_id AND g.closed_at IS NULL ORDER BY 1 DESC
$$;

-- Why days of listening_history are not complete, the first reason that holds:
--   today     it is not over
--   before    nothing was collected yet
--   recount   the days are being computed again
--   gap       more was played between two syncs than Spotify keeps
--   missed    the user was not connected, or not synced for too long
--   late      it ended less than 6 hours before the last sync: plays may still arrive
CREATE OR REPLACE FUNCTION incomplete_days(user_id text, days int)
    RETURNS TABLE (date date, reason text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
    WITH known AS (
        SELECT
            u.user_id,
            u.timezone,
            u.days_stale,
            (min(c.covered_from) AT TIME ZONE u.timezone)::date AS first,
            range_agg(tstzrange(c.covered_from, c.covered_to, '[]')) AS spans
        FROM users AS u LEFT JOIN coverage AS c ON c.user_id = u.user_id
        WHERE u.user_id = incomplete_days.user_id
        GROUP BY u.user_id
    )
    SELECT d.date, CASE
        WHEN d.date = d.today THEN 'today'
        WHEN k.first <= d.date IS NOT TRUE THEN 'before'
        WHEN k.days_stale THEN 'recount'
        WHEN EXISTS (
            SELECT FROM listening_gaps AS g
            WHERE g.user_id = k.user_id AND g.closed_at IS NULL
                AND g.gap_start <= d.ends_at AND g.gap_end >= d.starts_at
        ) THEN 'gap'
        WHEN NOT k.spans @> tstzrange(d.starts_at, d.ends_at, '[]') THEN 'missed'
        ELSE 'late'
    END
    FROM known AS k
    CROSS JOIN LATERAL (
        SELECT
            h.date,
            h.completeness,
            max(h.date) OVER () AS today,
            (h.date + z.begins) AT TIME ZONE 'UTC' AS starts_at,
            lead((h.date + z.begins) AT TIME ZONE 'UTC') OVER (ORDER BY h.date) AS ends_at
        FROM listening_history(k.user_id, incomplete_days.days) AS h
        -- Not day_begins: the call takes longer than the search.
        CROSS JOIN LATERAL (
            SELECT s.begins FROM day_starts AS s
            WHERE s.timezone = k.timezone AND s.since <= h.date
            ORDER BY s.since DESC LIMIT 1
        ) AS z
    ) AS d
    WHERE d.completeness <> 'complete'
    ORDER BY d.date
$$;

-- Everything that is stored about a user but the plays, as one JSON object per row. Secrets of the
-- connection, the session and the share link are left out, and so is the machinery of leases.
CREATE OR REPLACE FUNCTION export_rows(user_id text) RETURNS TABLE (table_name text, content jsonb)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    name text;
BEGIN
    FOR name IN
        SELECT c.relname FROM pg_class AS c
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'user_id'
        WHERE c.relnamespace = 'spotify_pipeline'::regnamespace AND c.relkind = 'r'
            AND c.relname NOT IN ('plays', 'forgotten')
        ORDER BY c.relname
    LOOP
        RETURN QUERY EXECUTE format(
            'SELECT %L::text, to_jsonb(r) - ''{sealed_refresh_token,sealed_access_token,key_id,'
            'lease_id,lease_until,session_key,share_digest}''::text[]'
            ' FROM %I AS r WHERE r.user_id = $1',
            name, name
        ) USING export_rows.user_id;
    END LOOP;
END
$$;

-- The plays after one, oldest first, at most 10,000: the next page begins after the last of it.
CREATE OR REPLACE FUNCTION export_plays(user_id text, after_at timestamptz, after_id text)
    RETURNS TABLE (
        played_at timestamptz, track_id text, source text, ms_played int, context_uri text,
        track_name text, artist_name text
    )
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
    SELECT p.played_at, p.track_id, p.source, p.ms_played, p.context_uri, t.name, a.name
    FROM (
        SELECT * FROM plays AS p
        WHERE p.user_id = export_plays.user_id
            AND (p.played_at, p.track_id)
                > (coalesce(export_plays.after_at, '-infinity'), coalesce(export_plays.after_id, ''))
        ORDER BY p.played_at, p.track_id
        LIMIT 10000
    ) AS p
    JOIN tracks AS t ON t.spotify_id = p.track_id
    LEFT JOIN artists AS a ON a.spotify_id = p.artist_id
    ORDER BY p.played_at, p.track_id
$$;
