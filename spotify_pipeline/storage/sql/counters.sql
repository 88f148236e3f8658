-- Counts plays and days per user in statement triggers, whichever program writes them: 0.1 ms a
-- statement, however many rows it has.
--
-- A restore without triggers may leave counts too low. Deleting plays must still work then, so no count
-- falls below 0; a check reports it, and a rebuild counts again.

-- New or deleted plays: changes the count, and invalidates the personality. New ones invalidate the
-- months since the first of them, too; whatever the zone, its local date is at most a day earlier.
CREATE OR REPLACE FUNCTION tally_plays() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
DECLARE
    sign int := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
BEGIN
    UPDATE listening_tallies AS t SET
        plays = greatest(t.plays + sign * c.plays, 0),
        personality_key = NULL,
        months_before = CASE WHEN sign = 1
            THEN least(t.months_before, date_trunc('month', c.first - interval '1 day')::date)
            ELSE t.months_before END
    FROM (
        SELECT user_id, count(*) AS plays, min(played_at AT TIME ZONE 'UTC') AS first
        FROM changed GROUP BY user_id
    ) AS c
    WHERE t.user_id = c.user_id;
    RETURN NULL;
END
$$;

-- New or deleted days: the same.
CREATE OR REPLACE FUNCTION tally_days() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
DECLARE
    sign int := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
BEGIN
    UPDATE listening_tallies AS t SET
        days = greatest(t.days + sign * c.days, 0),
        personality_key = NULL
    FROM (SELECT user_id, count(*) AS days FROM changed GROUP BY user_id) AS c
    WHERE t.user_id = c.user_id;
    RETURN NULL;
END
$$;

-- Changed days: of their columns the personality reads only the top artist.
CREATE OR REPLACE FUNCTION tally_top_artists() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
BEGIN
    UPDATE listening_tallies SET personality_key = NULL
    WHERE user_id IN (
        SELECT user_id
        -- Not a join: its plan, cached for few rows, took a minute for 25,000.
        FROM (
            SELECT user_id, date, top_artist_id FROM changed
            EXCEPT SELECT user_id, date, top_artist_id FROM before
        ) AS other
    );
    RETURN NULL;
END
$$;
