-- What follows from a change of a person: their state row, their zone, their token's end.

-- Every person has a row in sync_state, request_locks and listening_tallies from the start, so nobody
-- asks whether there is one.
CREATE OR REPLACE FUNCTION make_sync_state() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
BEGIN
    INSERT INTO sync_state (user_id) VALUES (NEW.user_id) ON CONFLICT DO NOTHING;
    INSERT INTO request_locks (user_id) VALUES (NEW.user_id) ON CONFLICT DO NOTHING;
    INSERT INTO listening_tallies (user_id) VALUES (NEW.user_id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;

-- Another zone, other days: whoever changes it, in whatever way, all days become stale.
CREATE OR REPLACE FUNCTION notice_zone() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
BEGIN
    IF NEW.timezone <> OLD.timezone THEN
        NEW.days_stale := true;
    END IF;
    RETURN NEW;
END
$$;

-- A refresh token dies six months after the person authorized, by Spotify's calendar (UTC).
CREATE OR REPLACE FUNCTION set_token_expiry() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
DECLARE
    stale boolean := false;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        stale := NEW.authorized_at <> OLD.authorized_at AND NEW.expires_at = OLD.expires_at;
    END IF;
    IF stale OR NEW.expires_at IS NULL THEN
        NEW.expires_at :=
            (NEW.authorized_at AT TIME ZONE 'UTC' + interval '6 months') AT TIME ZONE 'UTC';
    END IF;
    RETURN NEW;
END
$$;

-- Whoever deletes a person, in whatever way: Dagster's storage still names them for a while.
CREATE OR REPLACE FUNCTION raise_tombstone() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
BEGIN
    INSERT INTO forgotten (user_id) VALUES (OLD.user_id);
    RETURN NULL;
END
$$;

-- Whether a user may ask for a sync depends on the connection: a request that is decided in an older
-- snapshot has to fail.
CREATE OR REPLACE FUNCTION note_connection() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
DECLARE
    other text[] := ARRAY(
        SELECT c.user_id FROM changed AS c JOIN before AS b USING (user_id)
        WHERE c.connection <> b.connection
    );
BEGIN
    IF other = '{}' THEN
        RETURN NULL;
    END IF;
    PERFORM FROM request_locks AS l
    WHERE l.user_id = ANY (other) ORDER BY l.user_id FOR NO KEY UPDATE;
    UPDATE request_locks AS l SET changes = l.changes + 1 WHERE l.user_id = ANY (other);
    RETURN NULL;
END
$$;

-- Before a user's rows go by cascade they are locked in the one order: Postgres would take the
-- requests before the row that protects them (deadlock).
CREATE OR REPLACE FUNCTION lock_leaving_user() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
BEGIN
    PERFORM FROM sync_state AS s WHERE s.user_id = OLD.user_id FOR UPDATE;
    PERFORM FROM request_locks AS l WHERE l.user_id = OLD.user_id FOR UPDATE;
    RETURN OLD;
END
$$;
