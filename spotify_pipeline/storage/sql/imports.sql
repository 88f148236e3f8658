-- Hands over a user's own listening history without a file system: open_history_import, then
-- add_history_rows for every batch of rows, then close_history_import. A sensor of the pipeline then
-- starts the import. Until it is closed nothing of it reaches the user's plays.
--
-- A user has one import that is open or closed, which a unique index enforces at any isolation level.
-- Functions lock the user first (KEY SHARE: no sync waits for it) and then the import, in the lock
-- order of users.sql.

-- The bounds of an upload: 15 years of a heavy listener are half a million rows.
CREATE OR REPLACE FUNCTION history_limits()
    RETURNS TABLE (batch_rows int, batch_octets int, upload_rows int, upload_octets int, files int)
    LANGUAGE sql IMMUTABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
    SELECT 5000, 8000000, 2000000, 500000000, 1000
$$;

-- Begins an import and returns its number. An import of the user that was never closed is deleted with
-- its rows: a broken upload can be repeated at once, and the broken one can add nothing any more.
CREATE OR REPLACE FUNCTION open_history_import(user_id text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    opened bigint;
BEGIN
    PERFORM FROM users AS u WHERE u.user_id = open_history_import.user_id FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'SP404', MESSAGE = 'There is no such user.';
    END IF;
    DELETE FROM history_imports AS i
    WHERE i.user_id = open_history_import.user_id AND i.status = 'open';
    INSERT INTO history_imports AS i (user_id, status)
    VALUES (open_history_import.user_id, 'open') RETURNING i.id INTO opened;
    RETURN opened;
EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION USING ERRCODE = 'SP423',
        MESSAGE = 'An earlier import of yours is still being worked on. Try again when it is done.';
END
$$;

-- Locks the user of an import and the import, and returns its status; SP404 if there is none.
CREATE OR REPLACE FUNCTION lock_history_import(import_id bigint) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
DECLARE
    found_status text;
BEGIN
    PERFORM FROM users AS u WHERE u.user_id = (
        SELECT i.user_id FROM history_imports AS i WHERE i.id = lock_history_import.import_id
    ) FOR KEY SHARE;
    SELECT i.status INTO found_status FROM history_imports AS i
    WHERE i.id = lock_history_import.import_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'SP404',
            MESSAGE = 'There is no such import: a newer one took its place, or it was never closed '
                'and deleted after a day.';
    END IF;
    RETURN found_status;
END
$$;

-- Adds a batch of rows of one file (its position in the import, from 0). The same number again replaces
-- the batch, so that a call may be repeated. Each row is an object:
--   ended_at            end of the play, UTC, to the second: 2024-03-01T12:34:56Z
--   ms_played           milliseconds heard, 1 to a day
--   track_id            Spotify's id (22 characters); null or missing: a row of account data
--   track_name, artist_name   as Spotify writes them, at most 1,000 characters; "" if missing
--   album_name          the same, or null
--   offline_started_at  when a play without a connection began, or null
-- Nothing else of a row is stored.
CREATE OR REPLACE FUNCTION add_history_rows(import_id bigint, number int, file int, rows jsonb)
    RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    moment constant text := '^20(0[6-9]|[1-9][0-9])-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])'
        'T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]';
    most record;
    complaint text;
    status text;
    stored_rows bigint;
    stored_octets bigint;
    batch history_import_batches;
BEGIN
    SELECT * INTO most FROM history_limits();
    batch.octets := octet_length(rows::text);
    complaint := CASE
        WHEN coalesce(add_history_rows.number, -1) < 0 THEN 'number is not 0 or greater'
        WHEN coalesce(add_history_rows.file, -1) NOT BETWEEN 0 AND most.files - 1
            THEN format('file is not a number from 0 to %s', most.files - 1)
        WHEN jsonb_typeof(rows) IS DISTINCT FROM 'array' THEN 'rows is not an array'
        WHEN jsonb_array_length(rows) NOT BETWEEN 1 AND most.batch_rows
            THEN format('a batch has 1 to %s rows', most.batch_rows)
        WHEN batch.octets > most.batch_octets
            THEN format('a batch is longer than %s bytes', most.batch_octets)
    END;
    IF complaint IS NULL THEN
        BEGIN
            SELECT format('row %s of the batch: %s', r.n - 1, r.complaint) INTO complaint
            FROM (
                SELECT e.n, CASE
                    WHEN jsonb_typeof(e.r) <> 'object' THEN 'it is not an object'
                    WHEN jsonb_typeof(e.r -> 'ended_at') IS DISTINCT FROM 'string'
                        OR e.r ->> 'ended_at' !~ (moment || 'Z$')
                        THEN 'ended_at is not a time since 2006 like 2024-03-01T12:34:56Z'
                    WHEN jsonb_typeof(e.r -> 'ms_played') IS DISTINCT FROM 'number'
                        OR e.r ->> 'ms_played' !~ '^[1-9][0-9]{0,7}$'
                        OR (e.r ->> 'ms_played')::int > 86400000
                        THEN 'ms_played is not a number of milliseconds from 1 to a day'
                    WHEN e.r ->> 'track_id' !~ '^[0-9A-Za-z]{22}$'
                        THEN 'track_id is not the id of a track'
                    WHEN jsonb_typeof(e.r -> 'track_name') IS DISTINCT FROM 'string'
                        OR jsonb_typeof(e.r -> 'artist_name') IS DISTINCT FROM 'string'
                        OR jsonb_typeof(e.r -> 'album_name') NOT IN ('string', 'null')
                        OR greatest(
                            char_length(e.r ->> 'track_name'),
                            char_length(e.r ->> 'artist_name'),
                            char_length(e.r ->> 'album_name')
                        ) > 1000
                        THEN 'a name is not a text of at most 1000 characters'
                    WHEN e.r ->> 'offline_started_at' IS NULL THEN NULL
                    WHEN e.r ->> 'track_id' IS NULL
                        OR e.r ->> 'offline_started_at' !~ (moment || '([.][0-9]{1,6})?Z$')
                        OR (e.r ->> 'offline_started_at')::timestamptz NOT BETWEEN
                            (e.r ->> 'ended_at')::timestamptz - interval '744 hours'
                            AND (e.r ->> 'ended_at')::timestamptz
                        THEN 'offline_started_at is not a time of at most 31 days before ended_at'
                END AS complaint
                FROM jsonb_array_elements(rows) WITH ORDINALITY AS e (r, n)
            ) AS r
            WHERE r.complaint IS NOT NULL ORDER BY r.n LIMIT 1;
            IF complaint IS NULL THEN
                SELECT
                    count(*),
                    min(e.at),
                    max(e.at),
                    CASE count(e.track_id) WHEN count(*) THEN 'extended' WHEN 0 THEN 'account' END,
                    jsonb_agg(jsonb_build_array(
                        e.r -> 'ended_at', e.r -> 'ms_played', e.track_id, e.r -> 'track_name',
                        e.r -> 'artist_name', e.r -> 'album_name', e.r -> 'offline_started_at'
                    ) ORDER BY e.n)
                INTO batch.row_count, batch.first_at, batch.last_at, batch.source, batch.content
                FROM (
                    SELECT e.n, e.r, e.r ->> 'track_id' AS track_id,
                        (e.r ->> 'ended_at')::timestamptz AS at
                    FROM jsonb_array_elements(rows) WITH ORDINALITY AS e (r, n)
                ) AS e;
                IF batch.source IS NULL THEN
                    complaint := 'rows of one file all have a track_id, or none has';
                END IF;
            END IF;
        EXCEPTION WHEN datetime_field_overflow THEN
            complaint := 'a time does not exist';
        END;
    END IF;
    IF complaint IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('The rows cannot be stored: %s.', complaint);
    END IF;
    status := lock_history_import(add_history_rows.import_id);
    IF status <> 'open' THEN
        RAISE EXCEPTION USING ERRCODE = 'SP423',
            MESSAGE = 'This import is closed and takes no more rows.';
    END IF;
    SELECT coalesce(sum(b.row_count), 0), coalesce(sum(b.octets), 0)
    INTO stored_rows, stored_octets
    FROM history_import_batches AS b
    WHERE b.import_id = add_history_rows.import_id AND b.number <> add_history_rows.number;
    IF stored_rows + batch.row_count > most.upload_rows
        OR stored_octets + batch.octets > most.upload_octets THEN
        RAISE EXCEPTION USING ERRCODE = 'SP413', MESSAGE =
            'This is more than one import takes. Import the files of the history one after the other.';
    END IF;
    INSERT INTO history_import_batches AS b (
        import_id, number, file, source, row_count, octets, first_at, last_at, content
    )
    VALUES (
        add_history_rows.import_id, add_history_rows.number, add_history_rows.file, batch.source,
        batch.row_count, batch.octets, batch.first_at, batch.last_at, batch.content
    )
    ON CONFLICT (import_id, number) DO UPDATE SET
        file = excluded.file,
        source = excluded.source,
        row_count = excluded.row_count,
        octets = excluded.octets,
        first_at = excluded.first_at,
        last_at = excluded.last_at,
        content = excluded.content;
END
$$;

-- Ends the upload: the import waits for the pipeline. `files` has an object for every file, in the
-- order of their positions:
--   name               to show in the receipt, 1 to 300 characters
--   source             extended (rows with a track_id) or account (rows without)
--   counts             the rows of the file that are no plays and were not added, by fate: malformed,
--                      podcast, audiobook, local, silent, future, incognito
--   first_at, last_at  the time that the file covers, from its first to its last row; both null: none
--   malformed          index and reason of malformed rows, the first hundred: [[4, "no time"]]
-- Closing again does nothing.
CREATE OR REPLACE FUNCTION close_history_import(import_id bigint, files jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    instant constant text := '^20(0[6-9]|[1-9][0-9])-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])'
        'T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,6})?Z$';
    most record;
    complaint text;
BEGIN
    IF lock_history_import(close_history_import.import_id) <> 'open' THEN
        RETURN;
    END IF;
    SELECT * INTO most FROM history_limits();
    complaint := CASE
        WHEN jsonb_typeof(files) IS DISTINCT FROM 'array'
            OR jsonb_array_length(files) NOT BETWEEN 1 AND most.files
            THEN format('files is not an array of 1 to %s files', most.files)
        WHEN octet_length(files::text) > most.batch_octets
            THEN format('files is longer than %s bytes', most.batch_octets)
        WHEN EXISTS (
            SELECT FROM history_import_batches AS b
            WHERE b.import_id = close_history_import.import_id
                AND b.file >= jsonb_array_length(files)
        ) THEN 'rows were added of a file that is not among files'
    END;
    IF complaint IS NULL THEN
        BEGIN
            SELECT format('file %s: %s', f.n - 1, f.complaint) INTO complaint
            FROM (
                SELECT e.n, CASE
                    WHEN jsonb_typeof(e.f) <> 'object' THEN 'it is not an object'
                    WHEN jsonb_typeof(e.f -> 'name') IS DISTINCT FROM 'string'
                        OR char_length(e.f ->> 'name') NOT BETWEEN 1 AND 300
                        THEN 'name is not a text of 1 to 300 characters'
                    WHEN coalesce(e.f ->> 'source', '') NOT IN ('extended', 'account')
                        THEN 'source is not extended or account'
                    WHEN jsonb_typeof(e.f -> 'counts') IS DISTINCT FROM 'object'
                        OR (e.f -> 'counts') - '{malformed,podcast,audiobook,local,silent,future,'
                            'incognito}'::text[] <> '{}'
                        OR e.f @? '$.counts.* ? (
                            @.type() != "number" || @ < 0 || @ > 9999999 || @.floor() != @
                        )'
                        THEN 'counts is not an object of numbers of rows that are no plays'
                    WHEN jsonb_typeof(e.f -> 'malformed') IS DISTINCT FROM 'array'
                        OR jsonb_array_length(e.f -> 'malformed') > 100
                        OR e.f @? 'strict $.malformed[*] ? (
                            @.type() != "array" || @.size() != 2 || @[0].type() != "number"
                            || @[1].type() != "string"
                        )'
                        THEN 'malformed is not an array of at most 100 pairs of index and reason'
                    WHEN (e.f ->> 'first_at' IS NULL) <> (e.f ->> 'last_at' IS NULL)
                        OR e.f ->> 'first_at' !~ instant OR e.f ->> 'last_at' !~ instant
                        OR (e.f ->> 'first_at')::timestamptz > (e.f ->> 'last_at')::timestamptz
                        THEN 'first_at and last_at are not times since 2006 in their order'
                    WHEN EXISTS (
                        SELECT FROM history_import_batches AS b
                        WHERE b.import_id = close_history_import.import_id AND b.file = e.n - 1
                            AND (
                                b.source <> e.f ->> 'source'
                                OR e.f ->> 'first_at' IS NULL
                                OR b.first_at < (e.f ->> 'first_at')::timestamptz
                                OR b.last_at > (e.f ->> 'last_at')::timestamptz
                            )
                    ) THEN 'source, first_at and last_at are not those of its rows'
                END AS complaint
                FROM jsonb_array_elements(files) WITH ORDINALITY AS e (f, n)
            ) AS f
            WHERE f.complaint IS NOT NULL ORDER BY f.n LIMIT 1;
        EXCEPTION WHEN datetime_field_overflow THEN
            complaint := 'a time does not exist';
        END;
    END IF;
    IF complaint IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('The import cannot be closed: %s.', complaint);
    END IF;
    UPDATE history_imports AS i SET
        status = 'closed', closed_at = now(), files = close_history_import.files
    WHERE i.id = close_history_import.import_id;
    PERFORM notify_work();
END
$$;

-- Deletes an import that is open, with its rows; one that is closed or gone is left as it is.
CREATE OR REPLACE FUNCTION discard_history_import(import_id bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
BEGIN
    PERFORM FROM users AS u WHERE u.user_id = (
        SELECT i.user_id FROM history_imports AS i WHERE i.id = discard_history_import.import_id
    ) FOR KEY SHARE;
    DELETE FROM history_imports AS i
    WHERE i.id = discard_history_import.import_id AND i.status = 'open';
END
$$;

-- The fates of a receipt that are not 0, from its row as JSON.
CREATE OR REPLACE FUNCTION history_fates(receipt jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
    SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') FROM jsonb_each(receipt) AS e
    WHERE e.value <> '0' AND e.key IN (
        'new', 'matched', 'known', 'repeated', 'short', 'silent', 'podcast', 'audiobook', 'local',
        'incognito', 'superseded', 'malformed', 'future', 'before_retention'
    )
$$;

-- The latest imports of a user, newest first, at most 100: from the command line, too. Of one that is
-- open or closed `rows_read` counts the rows added so far.
CREATE OR REPLACE FUNCTION history_receipts(user_id text, imports int)
    RETURNS TABLE (
        import_id bigint,
        status text,
        started_at timestamptz,
        finished_at timestamptz,
        error_message text,
        rows_read bigint,
        fates jsonb,
        first_at timestamptz,
        last_at timestamptz,
        files jsonb
    )
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
    SELECT
        i.id,
        i.status,
        i.started_at,
        i.finished_at,
        i.error_message,
        i.rows_read + (
            SELECT coalesce(sum(b.row_count), 0) FROM history_import_batches AS b
            WHERE b.import_id = i.id
        ),
        history_fates(to_jsonb(i)),
        i.first_at,
        i.last_at,
        (
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'name', f.name,
                'source', f.source,
                'rows_read', f.rows_read,
                'fates', history_fates(to_jsonb(f)),
                'first_at', f.first_at,
                'last_at', f.last_at,
                'malformed', f.malformed_rows
            ) ORDER BY f.number), '[]')
            FROM history_import_files AS f WHERE f.import_id = i.id
        )
    FROM history_imports AS i
    WHERE i.user_id = history_receipts.user_id
    ORDER BY i.id DESC
    LIMIT least(greatest(history_receipts.imports, 0), 100)
$$;
