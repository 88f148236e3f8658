-- What the web page needs of a user: sign-in, sessions, the profile and who may see it.

-- The user of a Spotify account, registered if there is none. `account_id` and `spotify_user_id` are
-- what /v1/me answered for a token of the account: the app must have asked Spotify itself.
--
-- Without a user of this account, the account's Spotify id becomes the user id. A user of that id who
-- has data, but no known account, may be another user (an app chooses ids of its own): refused. While
-- Spotify sent no account ids, the Spotify id was stored in their place.
CREATE OR REPLACE FUNCTION sign_in_user(account_id text, spotify_user_id text, display_name text)
    RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    known users;
BEGIN
    IF coalesce(char_length(sign_in_user.account_id), 0) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'An account id has 1 to 255 characters.';
    END IF;
    SELECT * INTO known FROM users AS u
    WHERE u.account_id = sign_in_user.account_id
        -- Unless it is any user's: an account id may equal another user's Spotify id.
        OR u.account_id = sign_in_user.spotify_user_id AND u.user_id = u.account_id
    ORDER BY u.account_id <> sign_in_user.account_id LIMIT 1;
    IF NOT FOUND THEN
        -- Before register_user, whose lock is weaker: the account is a key.
        PERFORM FROM users AS u WHERE u.user_id = sign_in_user.spotify_user_id FOR UPDATE;
        PERFORM register_user(sign_in_user.spotify_user_id, NULL, NULL);
        SELECT * INTO known FROM users AS u
        WHERE u.user_id = sign_in_user.spotify_user_id FOR UPDATE;
        IF known.account_id IS DISTINCT FROM sign_in_user.account_id AND (
            known.account_id IS NOT NULL
            OR EXISTS (SELECT FROM user_tokens AS k WHERE k.user_id = known.user_id)
            OR EXISTS (SELECT FROM plays AS p WHERE p.user_id = known.user_id)
        ) THEN
            RAISE EXCEPTION USING ERRCODE = 'SP403',
                MESSAGE = 'The user of this name is not known to be this Spotify account.';
        END IF;
        UPDATE users AS u SET account_id = sign_in_user.account_id
        WHERE u.user_id = known.user_id AND u.account_id IS NULL;
    END IF;
    IF known.display_name IS NULL THEN
        PERFORM register_user(known.user_id, NULL, nullif(sign_in_user.display_name, ''));
    END IF;
    INSERT INTO profiles (user_id) VALUES (known.user_id) ON CONFLICT DO NOTHING;
    RETURN known.user_id;
EXCEPTION WHEN unique_violation THEN
    -- Another session has just stored this account for another user id.
    SELECT * INTO known FROM users AS u WHERE u.account_id = sign_in_user.account_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'serialization_failure',
            MESSAGE = 'This account was stored after this transaction began: repeat it.';
    END IF;
    RETURN known.user_id;
WHEN foreign_key_violation THEN
    -- Another session has just deleted the user.
    RAISE EXCEPTION USING ERRCODE = 'SP404', MESSAGE = 'There is no such user.';
END
$$;

-- The key to seal refresh tokens with; no row: no process of the pipeline has run yet.
CREATE OR REPLACE FUNCTION sealing_key() RETURNS TABLE (key_id text, public_key bytea)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
    SELECT k.key_id, k.public_key FROM sealing_key AS k
$$;

-- The user's settings, for a signed-in page; no row: no such user, or never signed in.
CREATE OR REPLACE FUNCTION user_settings(user_id text)
    RETURNS TABLE (
        display_name text,
        timezone text,
        profile_name text,
        is_public boolean,
        share_expires_at timestamptz,
        session_key uuid,
        plays bigint,
        days int,
        known_from timestamptz,
        registered_at timestamptz
    )
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
    SELECT
        u.display_name,
        u.timezone,
        f.name,
        f.is_public,
        CASE WHEN f.share_expires_at > now() THEN f.share_expires_at END,
        f.session_key,
        t.plays,
        t.days,
        (SELECT min(c.covered_from) FROM coverage AS c WHERE c.user_id = u.user_id),
        u.created_at
    FROM users AS u
    JOIN profiles AS f ON f.user_id = u.user_id
    JOIN listening_tallies AS t ON t.user_id = u.user_id
    WHERE u.user_id = user_settings.user_id
$$;

-- Ends every session of the user.
CREATE OR REPLACE FUNCTION end_sessions(user_id text) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
    SELECT FROM users AS u WHERE u.user_id = end_sessions.user_id FOR KEY SHARE;
    UPDATE profiles AS f SET session_key = gen_random_uuid() WHERE f.user_id = end_sessions.user_id
$$;

-- Sets the name of the profile (NULL: none) and who sees it.
CREATE OR REPLACE FUNCTION set_profile(user_id text, name text, is_public boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM users AS u WHERE u.user_id = set_profile.user_id FOR KEY SHARE;
    UPDATE profiles AS f SET name = set_profile.name, is_public = set_profile.is_public
    WHERE f.user_id = set_profile.user_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'SP404', MESSAGE = 'There is no such user.';
    END IF;
EXCEPTION
    WHEN unique_violation THEN
        RAISE EXCEPTION USING ERRCODE = 'SP422', MESSAGE = 'This name is taken. Choose another.';
    WHEN check_violation OR not_null_violation THEN
        RAISE EXCEPTION USING ERRCODE = 'SP422', MESSAGE =
            'A name has 1 to 40 small letters, digits and hyphens, begins and ends with a letter or '
            'digit, and is not an address of this page. A public profile needs one.';
END
$$;

-- Makes the share link valid until an instant, at most a year ahead, in place of an earlier link;
-- a digest of NULL revokes it.
CREATE OR REPLACE FUNCTION share_profile(user_id text, digest bytea, expires_at timestamptz)
    RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF (digest IS NULL) <> (expires_at IS NULL) OR octet_length(digest) <> 32
        OR expires_at NOT BETWEEN now() AND now() + interval '366 days' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'A share link has a digest of 32 bytes and expires within a year.';
    END IF;
    PERFORM FROM users AS u WHERE u.user_id = share_profile.user_id FOR KEY SHARE;
    UPDATE profiles AS f SET share_digest = digest, share_expires_at = expires_at
    WHERE f.user_id = share_profile.user_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'SP404', MESSAGE = 'There is no such user.';
    END IF;
EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
        MESSAGE = 'Another share link has this digest: make one of random bytes.';
END
$$;

-- The user of a public profile name, or of a share link that has not expired; no row: neither, which
-- says nothing about whether the name exists. `version` changes with every sync and setting.
CREATE OR REPLACE FUNCTION find_profile(name text, digest bytea)
    RETURNS TABLE (user_id text, display_name text, timezone text, version text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
    SELECT
        u.user_id,
        u.display_name,
        u.timezone,
        md5(concat_ws(' ', s.recorded_at, u.timezone, u.days_stale, u.display_name, f.name))
    FROM profiles AS f
    JOIN users AS u ON u.user_id = f.user_id
    JOIN sync_state AS s ON s.user_id = f.user_id
    WHERE f.name = find_profile.name AND f.is_public
        OR f.share_digest = find_profile.digest AND f.share_expires_at > now()
    LIMIT 1
$$;
