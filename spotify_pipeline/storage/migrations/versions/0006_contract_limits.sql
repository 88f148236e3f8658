-- Whoever writes waits here: no row comes between two statements.
LOCK TABLE spotify_pipeline.users, spotify_pipeline.user_tokens IN SHARE ROW EXCLUSIVE MODE;

-- Limits on all that an app may write. A longer name is cut. A token or scopes beyond the limits are
-- not Spotify's and never worked: the connection ends, and the user has to reconnect.
UPDATE spotify_pipeline.users SET display_name = left(display_name, 255) WHERE char_length(display_name) > 255;
WITH ended AS (
    DELETE FROM spotify_pipeline.user_tokens
    WHERE char_length(client_id) > 255
        OR char_length(key_id) > 255
        OR octet_length(sealed_refresh_token) > 8192
        OR cardinality(scopes) > 100
        OR octet_length(array_to_string(scopes, ' ')) > 4096
    RETURNING user_id
)
UPDATE spotify_pipeline.users AS u SET connection = 'needs_reauth' FROM ended AS e WHERE u.user_id = e.user_id;
ALTER TABLE spotify_pipeline.users
    ADD CONSTRAINT ck_users_display_name CHECK (char_length(display_name) <= 255);
ALTER TABLE spotify_pipeline.user_tokens
    ADD CONSTRAINT ck_user_tokens_client_id CHECK (char_length(client_id) <= 255),
    ADD CONSTRAINT ck_user_tokens_key_id CHECK (char_length(key_id) <= 255),
    ADD CONSTRAINT ck_user_tokens_sealed_refresh_token CHECK (octet_length(sealed_refresh_token) <= 8192),
    ADD CONSTRAINT ck_user_tokens_scopes CHECK (cardinality(scopes) <= 100 AND octet_length(array_to_string(scopes, ' ')) <= 4096);

-- A row per user that every decision about a request locks, and every change of what decides it
-- updates: an older snapshot then fails with 40001 instead of deciding by what was.
CREATE TABLE spotify_pipeline.request_locks (
    user_id TEXT NOT NULL,
    changes BIGINT DEFAULT 0 NOT NULL,
    CONSTRAINT pk_request_locks PRIMARY KEY (user_id),
    CONSTRAINT fk_request_locks_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
COMMENT ON TABLE spotify_pipeline.request_locks IS 'One row per person, made with them: locked while a request of theirs is decided.';
COMMENT ON COLUMN spotify_pipeline.request_locks.user_id IS 'The person this row belongs to; deleted with them.';
COMMENT ON COLUMN spotify_pipeline.request_locks.changes IS 'How often a request began or ended or the connection changed: an older snapshot cannot lock the row.';
INSERT INTO spotify_pipeline.request_locks (user_id) SELECT user_id FROM spotify_pipeline.users;

CREATE FUNCTION spotify_pipeline.note_connection() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE ''run spotify-pipeline init-db''; END';
CREATE FUNCTION spotify_pipeline.lock_leaving_user() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE ''run spotify-pipeline init-db''; END';
CREATE TRIGGER note_connection AFTER UPDATE ON spotify_pipeline.users
    REFERENCING OLD TABLE AS before NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION spotify_pipeline.note_connection();
CREATE TRIGGER lock_leaving_user BEFORE DELETE ON spotify_pipeline.users
    FOR EACH ROW EXECUTE FUNCTION spotify_pipeline.lock_leaving_user();

-- Requests for which no run begins are told to the operator.
ALTER TABLE spotify_pipeline.alerts
    DROP CONSTRAINT ck_alerts_event,
    ADD CONSTRAINT ck_alerts_event CHECK (event IN ('run_failed', 'account_blocked', 'outage', 'users_to_reconnect', 'gaps_opened', 'requests_waiting'));
