-- Each block below adds what one subject needs. Constraints are named as in storage/tables/base.py.
SET LOCAL search_path = spotify_pipeline;

-- Of one who reads the status meanwhile: they would hold users, wait for sync_requests below, and be
-- waited for where users is altered. This waits for all that the view reads, in a reader's order.
DO $$ BEGIN
    IF to_regclass('spotify_pipeline.sync_status') IS NOT NULL THEN
        LOCK TABLE spotify_pipeline.sync_status IN ACCESS EXCLUSIVE MODE;
    END IF;
END $$;

-- Local days in SQL: listening_history() tells the days of the pinned tzdata package.
CREATE TABLE spotify_pipeline.day_starts (
    timezone TEXT NOT NULL,
    since DATE NOT NULL,
    begins INTERVAL NOT NULL,
    CONSTRAINT pk_day_starts PRIMARY KEY (timezone, since),
    CONSTRAINT fk_day_starts_timezone FOREIGN KEY (timezone)
        REFERENCES spotify_pipeline.time_zones (name) ON DELETE CASCADE
);
COMMENT ON TABLE spotify_pipeline.day_starts IS 'One row per time zone and change of when its local days begin, by the pinned tzdata package; filled by init-db, so that SQL can tell days without Postgres''s own zones.';
COMMENT ON COLUMN spotify_pipeline.day_starts.timezone IS 'The zone.';
COMMENT ON COLUMN spotify_pipeline.day_starts.since IS 'First local date of which this is true.';
COMMENT ON COLUMN spotify_pipeline.day_starts.begins IS 'When a local day begins, from midnight UTC of its date; negative east of Greenwich.';

-- For as long as the operator wants.
COMMENT ON TABLE spotify_pipeline.fetch_log IS 'One row per fetched recently-played page; kept for a while.';

-- What each chunk of a run over many users cost, and how often it was tried.
CREATE TABLE spotify_pipeline.sync_run_chunks (
    run_id text NOT NULL,
    chunk integer NOT NULL,
    tries integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seconds double precision,
    api_calls integer,
    throttled_seconds double precision,
    CONSTRAINT pk_sync_run_chunks PRIMARY KEY (run_id, chunk),
    CONSTRAINT ck_sync_run_chunks_chunk CHECK (chunk >= 0),
    CONSTRAINT ck_sync_run_chunks_tries CHECK (tries >= 1),
    CONSTRAINT ck_sync_run_chunks_figures
        CHECK (seconds >= 0 AND api_calls >= 0 AND throttled_seconds >= 0)
);
CREATE INDEX ix_sync_run_chunks_started_at ON spotify_pipeline.sync_run_chunks (started_at);
COMMENT ON TABLE spotify_pipeline.sync_run_chunks IS 'One row per chunk of a run over many users: how often it was tried, what it cost.';
COMMENT ON COLUMN spotify_pipeline.sync_run_chunks.run_id IS 'Dagster run.';
COMMENT ON COLUMN spotify_pipeline.sync_run_chunks.chunk IS 'Number of the chunk, from 0.';
COMMENT ON COLUMN spotify_pipeline.sync_run_chunks.tries IS 'How often a process began it: more than once after a crash.';
COMMENT ON COLUMN spotify_pipeline.sync_run_chunks.started_at IS 'When the last try began.';
COMMENT ON COLUMN spotify_pipeline.sync_run_chunks.seconds IS 'How long that try took; NULL: it did not end.';
COMMENT ON COLUMN spotify_pipeline.sync_run_chunks.api_calls IS 'Calls to Spotify of that try.';
COMMENT ON COLUMN spotify_pipeline.sync_run_chunks.throttled_seconds IS 'How long its calls were held back by the budget or a block.';

-- Requests that are tried again after a while.
ALTER TABLE spotify_pipeline.sync_requests
    ADD COLUMN failures smallint NOT NULL DEFAULT 0,
    ADD COLUMN not_before timestamptz,
    ADD CONSTRAINT ck_sync_requests_failures CHECK (failures >= 0);
COMMENT ON COLUMN spotify_pipeline.sync_requests.failures IS 'How many attempts failed in a way that may pass; the third is final.';
COMMENT ON COLUMN spotify_pipeline.sync_requests.not_before IS 'No run is started before; NULL or past: at once.';

-- What plays and days add up to: counting a million plays took 60 ms of every sync.
CREATE TABLE spotify_pipeline.listening_tallies (
    user_id TEXT NOT NULL,
    plays BIGINT DEFAULT 0 NOT NULL,
    days INTEGER DEFAULT 0 NOT NULL,
    personality_key TEXT,
    streaks_before DATE,
    streak_days INTEGER DEFAULT 0 NOT NULL,
    longest_streak INTEGER DEFAULT 0 NOT NULL,
    longest_streak_artist_id TEXT,
    CONSTRAINT pk_listening_tallies PRIMARY KEY (user_id),
    CONSTRAINT ck_listening_tallies_counts CHECK (plays >= 0 AND days >= 0 AND streak_days >= 0 AND longest_streak >= 0),
    CONSTRAINT ck_listening_tallies_longest CHECK ((longest_streak = 0) = (longest_streak_artist_id IS NULL)),
    CONSTRAINT fk_listening_tallies_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
COMMENT ON TABLE spotify_pipeline.listening_tallies IS 'One row per person, made with them: what plays and days add up to. Triggers count.';
COMMENT ON COLUMN spotify_pipeline.listening_tallies.user_id IS 'The person this row belongs to; deleted with them.';
COMMENT ON COLUMN spotify_pipeline.listening_tallies.plays IS 'Stored plays.';
COMMENT ON COLUMN spotify_pipeline.listening_tallies.days IS 'Stored days.';
COMMENT ON COLUMN spotify_pipeline.listening_tallies.personality_key IS 'What the stored personality was computed from, apart from plays and days; NULL: those have changed since.';
COMMENT ON COLUMN spotify_pipeline.listening_tallies.streaks_before IS 'The days before this date, on which a run begins, are summed up in the next columns; NULL: none are.';
COMMENT ON COLUMN spotify_pipeline.listening_tallies.streak_days IS 'Days with a top artist.';
COMMENT ON COLUMN spotify_pipeline.listening_tallies.longest_streak IS 'Longest run in days.';
COMMENT ON COLUMN spotify_pipeline.listening_tallies.longest_streak_artist_id IS 'The artist of that run.';

-- Whoever writes waits here: nothing is counted twice, and nothing that comes meanwhile is missed.
LOCK TABLE spotify_pipeline.users, spotify_pipeline.plays, spotify_pipeline.daily_listening IN SHARE ROW EXCLUSIVE MODE;
INSERT INTO spotify_pipeline.listening_tallies (user_id, plays, days)
SELECT user_id, coalesce(p.plays, 0), coalesce(d.days, 0)
FROM spotify_pipeline.users
LEFT JOIN (SELECT user_id, count(*) AS plays FROM spotify_pipeline.plays GROUP BY 1) AS p USING (user_id)
LEFT JOIN (SELECT user_id, count(*) AS days FROM spotify_pipeline.daily_listening GROUP BY 1) AS d USING (user_id);

CREATE FUNCTION spotify_pipeline.tally_plays() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE ''run spotify-pipeline init-db''; END';
CREATE FUNCTION spotify_pipeline.tally_days() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE ''run spotify-pipeline init-db''; END';
CREATE FUNCTION spotify_pipeline.tally_top_artists() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE ''run spotify-pipeline init-db''; END';
CREATE TRIGGER tally_new_plays AFTER INSERT ON spotify_pipeline.plays
    REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION spotify_pipeline.tally_plays();
CREATE TRIGGER tally_gone_plays AFTER DELETE ON spotify_pipeline.plays
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION spotify_pipeline.tally_plays();
CREATE TRIGGER tally_new_days AFTER INSERT ON spotify_pipeline.daily_listening
    REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION spotify_pipeline.tally_days();
CREATE TRIGGER tally_gone_days AFTER DELETE ON spotify_pipeline.daily_listening
    REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION spotify_pipeline.tally_days();
CREATE TRIGGER tally_changed_days AFTER UPDATE ON spotify_pipeline.daily_listening
    REFERENCING OLD TABLE AS before NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION spotify_pipeline.tally_top_artists();

-- The days that may still become complete, among years that are.
CREATE INDEX ix_daily_listening_unsettled ON spotify_pipeline.daily_listening (user_id, completeness, date) WHERE completeness <> 'complete';

-- Tombstones of people who were forgotten, in whatever way their row went.
CREATE TABLE spotify_pipeline.forgotten (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    user_id TEXT,
    forgotten_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    scrubbed_at TIMESTAMP WITH TIME ZONE,
    traces JSONB DEFAULT '{}' NOT NULL,
    CONSTRAINT pk_forgotten PRIMARY KEY (id),
    CONSTRAINT ck_forgotten_scrubbed CHECK ((user_id IS NULL) = (scrubbed_at IS NOT NULL))
);
CREATE INDEX ix_forgotten_user_id ON spotify_pipeline.forgotten (user_id) WHERE user_id IS NOT NULL;
COMMENT ON TABLE spotify_pipeline.forgotten IS 'One row per forgotten person: a tombstone at first, a receipt without a name later.';
COMMENT ON COLUMN spotify_pipeline.forgotten.id IS 'Number of the receipt.';
COMMENT ON COLUMN spotify_pipeline.forgotten.user_id IS 'Who was forgotten, as long as Dagster''s storage may name them; then NULL.';
COMMENT ON COLUMN spotify_pipeline.forgotten.forgotten_at IS 'When their rows were deleted.';
COMMENT ON COLUMN spotify_pipeline.forgotten.scrubbed_at IS 'When the last trace was gone; NULL: not yet.';
COMMENT ON COLUMN spotify_pipeline.forgotten.traces IS 'What was deleted from Dagster''s storage: kind -> count.';
CREATE FUNCTION spotify_pipeline.raise_tombstone() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE ''run spotify-pipeline init-db''; END';
CREATE TRIGGER raise_tombstone AFTER DELETE ON spotify_pipeline.users
    FOR EACH ROW EXECUTE FUNCTION spotify_pipeline.raise_tombstone();

-- Requests that wait for our own limit of the day are shown as blocked.
ALTER TABLE spotify_pipeline.api_budget ADD COLUMN day_full_until timestamptz;
COMMENT ON COLUMN spotify_pipeline.api_budget.day_full_until IS 'Until when our own limit of the day leaves no call even for requests, as the request sensor last saw it; NULL or past: it leaves some.';

-- When the operator was last alerted: one alert per class of events and hour, over all processes.
CREATE TABLE spotify_pipeline.alerts (
    event TEXT NOT NULL,
    since TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    told INTEGER DEFAULT 0 NOT NULL,
    tried_at TIMESTAMP WITH TIME ZONE,
    sent_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_alerts PRIMARY KEY (event),
    CONSTRAINT ck_alerts_event CHECK (event IN ('run_failed', 'account_blocked', 'outage', 'users_to_reconnect', 'gaps_opened')),
    CONSTRAINT ck_alerts_told CHECK (told >= 0)
);
COMMENT ON TABLE spotify_pipeline.alerts IS 'One row per class of events: when the operator was last alerted.';
COMMENT ON COLUMN spotify_pipeline.alerts.event IS 'Class of events.';
COMMENT ON COLUMN spotify_pipeline.alerts.since IS 'What happened from this instant on has not been told.';
COMMENT ON COLUMN spotify_pipeline.alerts.told IS 'How many last stood there and were told.';
COMMENT ON COLUMN spotify_pipeline.alerts.tried_at IS 'Last try, so that no two processes send at once.';
COMMENT ON COLUMN spotify_pipeline.alerts.sent_at IS 'Last alert that arrived; NULL: none did.';

-- Retention of plays.
ALTER TABLE spotify_pipeline.users ADD COLUMN plays_from TIMESTAMP WITH TIME ZONE;
COMMENT ON COLUMN spotify_pipeline.users.plays_from IS 'Plays before were deleted by the operator''s retention, and local days that begin before stay as they are; NULL: nothing was.';
