-- What a new database needs besides tables and functions: triggers and the rows of one-row tables.
-- Runs once, so a change here needs a migration, too.
CREATE TRIGGER make_sync_state AFTER INSERT ON users
    FOR EACH ROW EXECUTE FUNCTION make_sync_state();
CREATE TRIGGER notice_zone BEFORE UPDATE OF timezone ON users
    FOR EACH ROW EXECUTE FUNCTION notice_zone();
CREATE TRIGGER note_connection AFTER UPDATE ON users
    REFERENCING OLD TABLE AS before NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION note_connection();
CREATE TRIGGER lock_leaving_user BEFORE DELETE ON users
    FOR EACH ROW EXECUTE FUNCTION lock_leaving_user();
CREATE TRIGGER raise_tombstone AFTER DELETE ON users
    FOR EACH ROW EXECUTE FUNCTION raise_tombstone();
CREATE TRIGGER set_token_expiry BEFORE INSERT OR UPDATE ON user_tokens
    FOR EACH ROW EXECUTE FUNCTION set_token_expiry();

CREATE TRIGGER accept_request BEFORE INSERT ON sync_requests
    FOR EACH ROW EXECUTE FUNCTION accept_request();
CREATE TRIGGER move_request BEFORE UPDATE ON sync_requests
    FOR EACH ROW EXECUTE FUNCTION move_request();

CREATE TRIGGER complete_play BEFORE INSERT ON plays
    FOR EACH ROW
    WHEN (
        NEW.artist_id IS NULL
        OR NEW.source = 'api' AND (NEW.duration_ms IS NULL OR NEW.release_date IS NULL)
    )
    EXECUTE FUNCTION complete_play();
CREATE TRIGGER tally_new_plays AFTER INSERT ON plays
    REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION tally_plays();
CREATE TRIGGER tally_gone_plays AFTER DELETE ON plays
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION tally_plays();
CREATE TRIGGER tally_new_days AFTER INSERT ON daily_listening
    REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION tally_days();
CREATE TRIGGER tally_gone_days AFTER DELETE ON daily_listening
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION tally_days();
CREATE TRIGGER tally_changed_days AFTER UPDATE ON daily_listening
    REFERENCING OLD TABLE AS before NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION tally_top_artists();

INSERT INTO api_budget DEFAULT VALUES;
INSERT INTO settings DEFAULT VALUES;

COMMENT ON TABLE alembic_version IS 'One row: which revision of the schema this is.';
COMMENT ON COLUMN alembic_version.version_num IS 'The revision, such as 0004.';
