-- Which users may request a sync, and when. The rule is in the database, so that it holds for the
-- app's INSERT and for request_sync() alike, and only the database's clock counts.

-- Prevents a deadlock: a session that reads sync_status locks it before request_cooldown, which it
-- reads. This locks sync_status first, too, before request_cooldown is replaced. It changes nothing.
ALTER VIEW IF EXISTS sync_status RESET (check_option);

-- When a user may request a sync again, from the rows of sync_requests; scheduled syncs do not count:
--   after a success: the cooldown of the settings;
--   after n transient failures in a row: min(1 min * 2^n, 1 h) after the last of them.
-- A permanent failure (such as RECONNECT) starts no wait and ends the series.
-- A view and not a function: a view is read with its owner's rights, while a function inside
-- sync_status would need EXECUTE for each reader.
CREATE OR REPLACE VIEW request_cooldown AS
SELECT
    u.user_id,
    success.until AS after_success,
    failure.until AS after_failure,
    CASE WHEN greatest(success.until, failure.until) > clock_timestamp()
        THEN greatest(success.until, failure.until)
    END AS next_allowed_at
FROM users AS u
LEFT JOIN LATERAL (
    -- In UTC: in a session's zone a day may have 23 or 25 hours.
    SELECT (r.finished_at AT TIME ZONE 'UTC' + s.request_cooldown) AT TIME ZONE 'UTC' AS until
    FROM sync_requests AS r CROSS JOIN settings AS s
    WHERE r.user_id = u.user_id AND r.status = 'succeeded'
        -- A wrong clock may have written an end in the future.
        AND r.finished_at <= clock_timestamp()
    ORDER BY r.id DESC
    LIMIT 1
) AS success ON true
LEFT JOIN LATERAL (
    -- Six failures already give the full hour.
    SELECT max(f.finished_at) + least(interval '1 minute' * 2 ^ count(*), interval '1 hour') AS until
    FROM (
        SELECT r.finished_at, bool_and(r.transient) OVER (ORDER BY r.id DESC) AS in_a_row
        FROM (
            SELECT
                id,
                finished_at,
                coalesce(error_code IN (
                    'SPOTIFY_UNAVAILABLE', 'RATE_LIMITED', 'QUOTA_EXCEEDED', 'BAD_RESPONSE',
                    'CRASHED', 'INTERNAL'
                ), false) AS transient
            FROM sync_requests
            WHERE user_id = u.user_id AND status IN ('succeeded', 'failed')
                AND finished_at <= clock_timestamp()
            ORDER BY id DESC
            LIMIT 6
        ) AS r
    ) AS f
    WHERE f.in_a_row
) AS failure ON true;

COMMENT ON VIEW request_cooldown IS
    'One row per user: when they may request a sync again. The one place with this rule.';
COMMENT ON COLUMN request_cooldown.user_id IS 'The user.';
COMMENT ON COLUMN request_cooldown.after_success IS
    'End of the cooldown after the last succeeded request; NULL: none succeeded.';
COMMENT ON COLUMN request_cooldown.after_failure IS
    'End of the wait after transient failures; NULL: the last request was none.';
COMMENT ON COLUMN request_cooldown.next_allowed_at IS
    'Next instant at which a request is accepted; NULL: now.';

-- Until when no call to Spotify may be made; no row: calls may be made. An end beyond the longest
-- block was written by a wrong clock and is ignored, as domain/quota.py ignores it.
CREATE OR REPLACE VIEW account_block AS
SELECT greatest(w.blocked_until, w.day_full_until) AS until, w.blocked_until
FROM api_budget AS b
CROSS JOIN LATERAL (
    SELECT
        CASE WHEN b.blocked_until <= clock_timestamp()
            + CASE b.blocked_reason WHEN 'APP' THEN interval '1 hour' ELSE interval '7 days' END
            THEN b.blocked_until
        END AS blocked_until,
        CASE WHEN b.day_full_until <= clock_timestamp() + interval '1 day'
            THEN b.day_full_until
        END AS day_full_until
) AS w
WHERE greatest(w.blocked_until, w.day_full_until) > clock_timestamp();

COMMENT ON VIEW account_block IS
    'One row while no call may be made, because Spotify or our own limit of the day forbids it.';
COMMENT ON COLUMN account_block.until IS 'Until when.';
COMMENT ON COLUMN account_block.blocked_until IS
    'Until when Spotify forbids it; NULL or earlier: our own limit of the day lasts longer.';

-- Wakes the ticks that wait for work, when the transaction commits. Not where transactions may be
-- prepared: Postgres prepares none that notifies. Of concurrent transactions one notifies, because
-- those that do commit one after the other; the next tick finds the work of the others.
CREATE OR REPLACE FUNCTION notify_work() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
BEGIN
    IF current_setting('max_prepared_transactions') = '0'
        -- Any number that no other program in this database uses for an advisory lock.
        AND pg_try_advisory_xact_lock(23450724713711194) THEN
        NOTIFY spotify_pipeline;
    END IF;
END
$$;

-- Accepts or refuses every new request, and sets every column but user_id and requested_by.
CREATE OR REPLACE FUNCTION accept_request() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
DECLARE
    connection_now text;
    cooldown request_cooldown;
    minutes int;
BEGIN
    IF char_length(NEW.requested_by) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'requested_by has 1 to 255 characters.';
    END IF;
    -- Keeps the user from being forgotten meanwhile. Does not conflict with a sync's write.
    PERFORM FROM users AS u WHERE u.user_id = NEW.user_id FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'SP404', MESSAGE = 'There is no such user.';
    END IF;
    -- Serializes concurrent requests of the user; an older snapshot fails with 40001.
    PERFORM FROM request_locks AS l WHERE l.user_id = NEW.user_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        -- After a restore without triggers: make the row; a concurrent request waits for it.
        INSERT INTO request_locks AS l (user_id) VALUES (NEW.user_id)
        ON CONFLICT (user_id) DO UPDATE SET changes = l.changes;
    END IF;
    -- Read after the lock: before it, the value may be outdated.
    SELECT u.connection INTO connection_now FROM users AS u WHERE u.user_id = NEW.user_id;
    IF connection_now IN ('disconnected', 'needs_reauth') THEN
        RAISE EXCEPTION USING ERRCODE = 'SP409',
            MESSAGE = 'Spotify is not connected. Reconnect Spotify, then sync again.';
    END IF;
    IF EXISTS (
        SELECT FROM sync_requests AS r
        WHERE r.user_id = NEW.user_id AND r.status IN ('queued', 'running')
    ) THEN
        RETURN NULL;
    END IF;

    SELECT * INTO cooldown FROM request_cooldown AS c WHERE c.user_id = NEW.user_id;
    IF cooldown.next_allowed_at IS NOT NULL THEN
        minutes := ceil(extract(epoch FROM cooldown.next_allowed_at - clock_timestamp()) / 60);
        RAISE EXCEPTION USING ERRCODE = 'SP429',
            MESSAGE = format(
                '%s You can sync again in %s.',
                CASE WHEN cooldown.after_failure = cooldown.next_allowed_at
                    THEN 'The last sync failed.' ELSE 'You synced a short while ago.' END,
                CASE WHEN minutes <= 1 THEN '1 minute' ELSE minutes || ' minutes' END
            ),
            DETAIL = to_char(
                cooldown.next_allowed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
            );
    END IF;

    UPDATE request_locks AS l SET changes = l.changes + 1 WHERE l.user_id = NEW.user_id;
    NEW.requested_at := clock_timestamp();
    NEW.requested_by := coalesce(NEW.requested_by, session_user);
    NEW.status := 'queued';
    NEW.attempts := 0;
    NEW.failures := 0;
    NEW.not_before := NULL;
    NEW.dispatch_key := NULL;
    NEW.run_id := NULL;
    NEW.started_at := NULL;
    NEW.finished_at := NULL;
    NEW.error_code := NULL;
    NEW.error_message := NULL;
    PERFORM notify_work();
    RETURN NEW;
END
$$;

-- A finished request never changes its status; an instant that a change of status leaves out is now.
CREATE OR REPLACE FUNCTION move_request() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
BEGIN
    IF NEW.status = OLD.status THEN
        RETURN NEW;
    END IF;
    IF OLD.status IN ('succeeded', 'failed') THEN
        RAISE EXCEPTION USING ERRCODE = 'check_violation',
            MESSAGE = format('Request %s has %s and cannot become %s.', OLD.id, OLD.status, NEW.status);
    END IF;
    IF NEW.status = 'running' AND NEW.started_at IS NULL THEN
        NEW.started_at := clock_timestamp();
    ELSIF NEW.status IN ('succeeded', 'failed') THEN
        NEW.finished_at := coalesce(NEW.finished_at, clock_timestamp());
        UPDATE request_locks AS l SET changes = l.changes + 1 WHERE l.user_id = NEW.user_id;
    END IF;
    RETURN NEW;
END
$$;

-- Requests a sync. Returns one row for the new or for the already open request; a refusal is an error
-- with SQLSTATE SP404, SP409 or SP429.
CREATE OR REPLACE FUNCTION request_sync(user_id text)
    RETURNS TABLE (request_id bigint, status text, retry_at timestamptz, message text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    request sync_requests;
    spotify_asked boolean;
BEGIN
    INSERT INTO sync_requests (user_id) VALUES (request_sync.user_id) RETURNING * INTO request;
    IF request.id IS NULL THEN
        -- The open one: the trigger's lock keeps it open, and keeps a newer one from appearing.
        SELECT * INTO request
        FROM sync_requests AS r WHERE r.user_id = request_sync.user_id ORDER BY r.id DESC LIMIT 1;
    END IF;
    SELECT b.until, coalesce(b.blocked_until = b.until, false) INTO retry_at, spotify_asked
    FROM account_block AS b;

    request_id := request.id;
    status := request.status;
    message := CASE
        WHEN request.status IN ('succeeded', 'failed') THEN 'Your sync has just ended.'
        WHEN retry_at IS NOT NULL THEN format(
            '%s Your sync starts after %s UTC.',
            CASE WHEN spotify_asked THEN 'Spotify asked us to wait.'
                ELSE 'All calls that we may make in 24 hours are used up.' END,
            to_char(retry_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
        )
        WHEN request.status = 'running' THEN 'Your sync is running.'
        ELSE 'Your sync is queued and starts in a few seconds.'
    END;
    RETURN NEXT;
END
$$;
