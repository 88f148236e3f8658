-- How people come in and leave: the same functions for the app and for the command line.
--
-- Each locks in the order in which a sync's write does, so that no two wait in a circle: the person
-- lightly (which only forgetting them conflicts with), then their state, then the person to change.
--
-- What the app passes and cannot be is refused in one sentence, with SQLSTATE 22023.

-- Registers a person, or updates what is given. NULL leaves a known value as it is (and is 'UTC'
-- for a new person), so that an app may call this at every login without moving anybody's days.
CREATE OR REPLACE FUNCTION register_user(
    user_id text, timezone text DEFAULT NULL, display_name text DEFAULT NULL
) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    wanted text := lower(replace(trim(register_user.timezone), ' ', '_'));
    meant text;
BEGIN
    IF register_user.timezone IS NOT NULL AND NOT EXISTS (
        SELECT FROM time_zones AS z WHERE z.name = register_user.timezone
    ) THEN
        -- The same letters, or the same city: `europe/berlin`, `Berlin`.
        SELECT z.name INTO meant FROM time_zones AS z
        WHERE wanted IN (lower(z.name), lower(regexp_replace(z.name, '^.*/', '')))
        ORDER BY lower(z.name) <> wanted, length(z.name), z.name LIMIT 1;
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = coalesce(
            'There is no such time zone: did you mean ' || meant || '?',
            'There is no such time zone. Use an IANA name such as Europe/Berlin.');
    END IF;
    -- A row that would not change is not even locked, which ON CONFLICT would do: a sync of the person
    -- and an app that goes on to connect_user need not wait for each other.
    PERFORM FROM users AS u
    WHERE u.user_id = register_user.user_id
        AND u.timezone = coalesce(register_user.timezone, u.timezone)
        AND u.display_name IS NOT DISTINCT FROM coalesce(register_user.display_name, u.display_name);
    IF FOUND THEN
        RETURN;
    END IF;
    PERFORM FROM users AS u WHERE u.user_id = register_user.user_id FOR KEY SHARE;
    PERFORM FROM sync_state AS s WHERE s.user_id = register_user.user_id FOR UPDATE;
    INSERT INTO users AS u (user_id, timezone, display_name)
    VALUES (
        register_user.user_id, coalesce(register_user.timezone, 'UTC'), register_user.display_name
    )
    ON CONFLICT (user_id) DO UPDATE SET
        timezone = coalesce(register_user.timezone, u.timezone),
        display_name = coalesce(register_user.display_name, u.display_name);
EXCEPTION WHEN check_violation OR not_null_violation THEN
    -- The table has the rule; nothing else here can break one.
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', CONSTRAINT = 'ck_users_user_id',
        MESSAGE = 'A user id has 1 to 255 characters, none of them a control character, and no '
            'three dots in a row.';
END
$$;

-- Hands over a connection: the refresh token sealed for the pipeline's key `key_id`. History stays,
-- earlier failures are forgotten.
CREATE OR REPLACE FUNCTION connect_user(
    user_id text,
    client_id text,
    sealed_refresh_token bytea,
    key_id text,
    scopes text[],
    authorized_at timestamptz
) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    complaint text := CASE
        WHEN coalesce(connect_user.client_id, '') = '' THEN 'client_id is missing'
        WHEN coalesce(length(connect_user.sealed_refresh_token), 0) = 0
            THEN 'sealed_refresh_token is missing'
        WHEN coalesce(connect_user.key_id, '') = '' THEN 'key_id is missing'
        WHEN connect_user.scopes IS NULL THEN 'scopes is missing'
        WHEN array_position(connect_user.scopes, NULL) IS NOT NULL THEN 'scopes has a NULL'
        WHEN connect_user.authorized_at IS NULL THEN 'authorized_at is missing'
        -- It could be stored, and Python could not read it or the end half a year later.
        WHEN connect_user.authorized_at NOT BETWEEN '1970-01-01Z' AND '9999-01-01Z'
            THEN 'authorized_at is before 1970 or after 9998'
    END;
BEGIN
    IF complaint IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('The connection cannot be stored: %s.', complaint);
    END IF;
    PERFORM FROM users AS u WHERE u.user_id = connect_user.user_id FOR KEY SHARE;
    PERFORM FROM sync_state AS s WHERE s.user_id = connect_user.user_id FOR UPDATE;
    UPDATE users AS u SET connection = 'connected' WHERE u.user_id = connect_user.user_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'SP404', MESSAGE = 'There is no such user.';
    END IF;
    INSERT INTO user_tokens AS k (
        user_id, client_id, sealed_refresh_token, key_id, scopes, authorized_at
    )
    VALUES (
        connect_user.user_id, connect_user.client_id, connect_user.sealed_refresh_token,
        connect_user.key_id, connect_user.scopes, connect_user.authorized_at
    )
    ON CONFLICT (user_id) DO UPDATE SET
        client_id = excluded.client_id,
        sealed_refresh_token = excluded.sealed_refresh_token,
        key_id = excluded.key_id,
        scopes = excluded.scopes,
        authorized_at = excluded.authorized_at,
        -- NULL: the trigger computes it from authorized_at.
        expires_at = excluded.expires_at,
        last_refreshed_at = NULL,
        last_error_code = NULL,
        sealed_access_token = NULL,
        access_expires_at = NULL;
    UPDATE sync_state AS s SET
        consecutive_failures = 0, last_error_code = NULL, last_error_message = NULL,
        next_due_at = NULL, recorded_at = now()
    WHERE s.user_id = connect_user.user_id;
END
$$;

-- Ends a connection: the token goes, everything that was heard stays. An open request is closed; a
-- sync that is under way may still write what it has already collected.
CREATE OR REPLACE FUNCTION disconnect_user(user_id text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM users AS u WHERE u.user_id = disconnect_user.user_id FOR KEY SHARE;
    PERFORM FROM sync_state AS s WHERE s.user_id = disconnect_user.user_id FOR UPDATE;
    UPDATE users AS u SET connection = 'disconnected' WHERE u.user_id = disconnect_user.user_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'SP404', MESSAGE = 'There is no such user.';
    END IF;
    DELETE FROM user_tokens AS k WHERE k.user_id = disconnect_user.user_id;
    -- The person ended it, not Spotify: so it is no RECONNECT, and starts no wait.
    UPDATE sync_requests AS r SET
        status = 'failed',
        error_code = 'CANCELLED',
        error_message = 'Spotify was disconnected. Connect it again to sync.'
    WHERE r.user_id = disconnect_user.user_id AND r.status IN ('queued', 'running');
    UPDATE sync_state AS s SET
        consecutive_failures = 0, last_error_code = NULL, last_error_message = NULL,
        recorded_at = now()
    WHERE s.user_id = disconnect_user.user_id;
END
$$;

-- Deletes a person and, by cascade, everything stored about them, at once. It waits for a write of
-- theirs that is under way; what a sync collects after that finds no person and is dropped.
CREATE OR REPLACE FUNCTION forget_user(user_id text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    DELETE FROM users AS u WHERE u.user_id = forget_user.user_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'SP404', MESSAGE = 'There is no such user.';
    END IF;
END
$$;
