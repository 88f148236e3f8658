-- Trigger functions of the tables users and user_tokens.

-- Every user has a row in sync_state, request_locks and listening_tallies from the start, so no query
-- needs to handle a missing one.
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

-- Marks all days stale when the zone changes, whichever program changes it.
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

-- A refresh token expires six months after the user authorized, in UTC.
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

-- Leaves a tombstone for a deleted user, whichever program deletes it: Dagster's storage still has to
-- be purged of the user.
CREATE OR REPLACE FUNCTION raise_tombstone() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
BEGIN
    INSERT INTO forgotten (user_id) VALUES (OLD.user_id);
    RETURN NULL;
END
$$;

-- The rule for requests reads the connection: a request that is evaluated in an older snapshot has to
-- fail, so a change of the connection changes the row that it locks.
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

-- Locks a user's rows in the documented order before the cascade deletes them: Postgres would lock the
-- requests before the row that guards them (deadlock).
CREATE OR REPLACE FUNCTION lock_leaving_user() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
BEGIN
    PERFORM FROM sync_state AS s WHERE s.user_id = OLD.user_id FOR UPDATE;
    PERFORM FROM request_locks AS l WHERE l.user_id = OLD.user_id FOR UPDATE;
    RETURN OLD;
END
$$;
