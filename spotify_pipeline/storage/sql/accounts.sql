-- How people come in: the same two functions for the app and for the command line.

-- Registers a person, or updates what is given. NULL leaves a known value as it is (and is 'UTC'
-- for a new person), so that an app may call this at every login without moving anybody's days.
CREATE OR REPLACE FUNCTION register_user(
    user_id text, timezone text DEFAULT NULL, display_name text DEFAULT NULL
) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF register_user.timezone IS NOT NULL AND NOT EXISTS (
        SELECT FROM time_zones AS z WHERE z.name = register_user.timezone
    ) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'There is no such time zone. Use an IANA name such as Europe/Berlin.';
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
    INSERT INTO users AS u (user_id, timezone, display_name)
    VALUES (
        register_user.user_id, coalesce(register_user.timezone, 'UTC'), register_user.display_name
    )
    ON CONFLICT (user_id) DO UPDATE SET
        timezone = coalesce(register_user.timezone, u.timezone),
        display_name = coalesce(register_user.display_name, u.display_name);
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
BEGIN
    -- In the order in which a sync's write locks them, so that neither waits for the other in a
    -- circle: the person lightly, then their state.
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
