-- Registers, connects, disconnects and forgets users: for the app and for the command line.
--
-- The lock order. Every transaction of ours, in SQL and in Python, locks rows in this order, and the
-- rows of several users by user_id, so that none of them deadlocks with another:
--   0. settings, to evaluate refused connections: one process at a time;
--   1. users, with the strongest lock it will need, because upgrading a lock later deadlocks with a
--      waiting forget_user: NO KEY UPDATE to write a user's data, KEY SHARE to request a sync;
--   2. sync_state; 3. request_locks; 4. user_tokens, sync_requests and all else of the user.
-- A second UPDATE of a row in one transaction makes Postgres check the row's foreign key, which locks
-- the user: where that may happen, begin with 1.
-- A transaction skips steps that it does not need. A sync's write begins with 1 and 2, a request with
-- 1 and 3, so a click never waits for a sync.
--
-- Under REPEATABLE READ and SERIALIZABLE a lock on a row that was changed since the snapshot fails
-- with 40001. So every rule is evaluated after the row that guards it was locked.
--
-- Invalid arguments are refused in one sentence, with SQLSTATE 22023.

-- Registers a user, or updates what is given. NULL keeps a known value (and is 'UTC' for a new user),
-- so that an app may call this at every login without moving the user's days.
CREATE OR REPLACE FUNCTION register_user(
    user_id text, timezone text DEFAULT NULL, display_name text DEFAULT NULL
) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    -- No zone is longer, and the app may send megabytes.
    wanted text := lower(replace(trim(left(register_user.timezone, 255)), ' ', '_'));
    meant text;
BEGIN
    IF char_length(register_user.display_name) > 255 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            CONSTRAINT = 'ck_users_display_name',
            MESSAGE = 'A display name has at most 255 characters.';
    END IF;
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
    -- A row that would not change is not locked, which ON CONFLICT would do: otherwise a sync of the
    -- user and an app that goes on to connect_user would wait for each other. An older snapshot may
    -- show an outdated row, so there the row is locked.
    PERFORM FROM users AS u
    WHERE u.user_id = register_user.user_id
        AND current_setting('transaction_isolation') IN ('read committed', 'read uncommitted')
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
EXCEPTION WHEN check_violation OR not_null_violation THEN
    -- The table has the rule; nothing else here can break one.
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', CONSTRAINT = 'ck_users_user_id',
        MESSAGE = 'A user id has 1 to 255 characters, none of them a control character, and no '
            'three dots in a row.';
END
$$;

-- Stores a connection: the refresh token sealed for the pipeline's key `key_id`. Keeps the history,
-- clears earlier failures.
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
        -- array_position raises 0A000 for more than one dimension.
        WHEN array_ndims(connect_user.scopes) > 1 THEN 'scopes has more than one dimension'
        WHEN array_position(connect_user.scopes, NULL) IS NOT NULL THEN 'scopes has a NULL'
        WHEN connect_user.authorized_at IS NULL THEN 'authorized_at is missing'
        -- Postgres could store it, but Python could not read it or the expiry half a year later.
        WHEN connect_user.authorized_at NOT BETWEEN '1970-01-01Z' AND '9999-01-01Z'
            THEN 'authorized_at is before 1970 or after 9998'
        -- The table has the same limits.
        WHEN char_length(connect_user.client_id) > 255 THEN 'client_id is longer than 255 characters'
        WHEN length(connect_user.sealed_refresh_token) > 8192
            THEN 'sealed_refresh_token is longer than 8192 bytes'
        WHEN char_length(connect_user.key_id) > 255 THEN 'key_id is longer than 255 characters'
        WHEN cardinality(connect_user.scopes) > 100
            OR octet_length(array_to_string(connect_user.scopes, ' ')) > 4096
            THEN 'scopes has more than 100 names or 4096 bytes'
    END;
BEGIN
    IF complaint IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('The connection cannot be stored: %s.', complaint);
    END IF;
    PERFORM FROM users AS u WHERE u.user_id = connect_user.user_id FOR NO KEY UPDATE;
    -- Before any other lock: one of a user registered right now would break the lock order (deadlock).
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'SP404', MESSAGE = 'There is no such user.';
    END IF;
    PERFORM FROM sync_state AS s WHERE s.user_id = connect_user.user_id FOR UPDATE;
    UPDATE users AS u SET connection = 'connected' WHERE u.user_id = connect_user.user_id;
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

-- Ends a connection: deletes the token, keeps all plays, closes an open request. A sync that is under
-- way may still write what it has already fetched.
CREATE OR REPLACE FUNCTION disconnect_user(user_id text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM users AS u WHERE u.user_id = disconnect_user.user_id FOR NO KEY UPDATE;
    -- Before any other lock: one of a user registered right now would break the lock order (deadlock).
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'SP404', MESSAGE = 'There is no such user.';
    END IF;
    PERFORM FROM sync_state AS s WHERE s.user_id = disconnect_user.user_id FOR UPDATE;
    -- Serializes with accept_request: no request is accepted under the connection that ends now, and
    -- none accepted meanwhile stays open.
    PERFORM FROM request_locks AS l WHERE l.user_id = disconnect_user.user_id FOR NO KEY UPDATE;
    UPDATE users AS u SET connection = 'disconnected' WHERE u.user_id = disconnect_user.user_id;
    DELETE FROM user_tokens AS k WHERE k.user_id = disconnect_user.user_id;
    -- The user ended it, not Spotify: so it is not RECONNECT, and starts no back-off.
    UPDATE sync_requests AS r SET
        status = 'failed',
        error_code = 'CANCELLED',
        error_message = 'Spotify was disconnected. Connect it again to sync.'
    WHERE r.user_id = disconnect_user.user_id AND r.status IN ('queued', 'running');
    UPDATE sync_state AS s SET
        consecutive_failures = 0, last_error_code = NULL, last_error_message = NULL,
        recorded_at = now()
    WHERE s.user_id = disconnect_user.user_id;
    -- Ends the sessions of the web page.
    UPDATE profiles AS f SET session_key = gen_random_uuid()
    WHERE f.user_id = disconnect_user.user_id;
END
$$;

-- Deletes a user and, by cascade, every row of theirs, at once. Waits for a write of the user that is
-- under way; what a sync fetches after that finds no user row and is dropped.
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
