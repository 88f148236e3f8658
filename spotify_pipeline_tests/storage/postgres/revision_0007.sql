-- The tables, constraints and triggers that the migrations up to 0007 made, without comments of
-- columns. A fixture of test_upgrade.py; it never changes.
CREATE SCHEMA spotify_pipeline;
CREATE TYPE spotify_pipeline.text_range AS RANGE (SUBTYPE = text, COLLATION = "C");
CREATE TABLE spotify_pipeline.alerts (
    event TEXT NOT NULL,
    since TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    told INTEGER DEFAULT 0 NOT NULL,
    tried_at TIMESTAMP WITH TIME ZONE,
    sent_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_alerts PRIMARY KEY (event),
    CONSTRAINT ck_alerts_event CHECK (event IN ('run_failed', 'account_blocked', 'outage', 'users_to_reconnect', 'gaps_opened', 'requests_waiting')),
    CONSTRAINT ck_alerts_told CHECK (told >= 0)
);
COMMENT ON TABLE spotify_pipeline.alerts IS 'One row per class of events: when the operator was last alerted.';
CREATE TABLE spotify_pipeline.api_budget (
    singleton BOOLEAN DEFAULT true NOT NULL,
    rate_tat TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    day_slot BIGINT DEFAULT 0 NOT NULL,
    blocked_until TIMESTAMP WITH TIME ZONE,
    blocked_reason TEXT,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    day_calls INTEGER[] DEFAULT '{}' NOT NULL,
    day_full_until TIMESTAMP WITH TIME ZONE,
    unanswered_users SMALLINT DEFAULT 0 NOT NULL,
    outage_until TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_api_budget PRIMARY KEY (singleton),
    CONSTRAINT ck_api_budget_singleton CHECK (singleton),
    CONSTRAINT ck_api_budget_unanswered_users CHECK (unanswered_users >= 0),
    CONSTRAINT ck_api_budget_blocked_reason CHECK (blocked_reason IN ('RATE', 'QUOTA', 'APP')),
    CONSTRAINT ck_api_budget_blocked CHECK ((blocked_until IS NULL) = (blocked_reason IS NULL))
);
COMMENT ON TABLE spotify_pipeline.api_budget IS 'One row: what the developer account may still ask of Spotify, for all processes.';
CREATE TABLE spotify_pipeline.artists (
    spotify_id TEXT NOT NULL,
    name TEXT NOT NULL,
    genres TEXT[],
    popularity SMALLINT,
    image_url TEXT,
    CONSTRAINT pk_artists PRIMARY KEY (spotify_id),
    CONSTRAINT ck_artists_popularity CHECK (popularity BETWEEN 0 AND 100)
);
COMMENT ON TABLE spotify_pipeline.artists IS 'One row per artist that was ever played or listed.';
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
CREATE TABLE spotify_pipeline.settings (
    singleton BOOLEAN DEFAULT true NOT NULL,
    request_cooldown INTERVAL DEFAULT '01:00:00'::interval NOT NULL,
    CONSTRAINT pk_settings PRIMARY KEY (singleton),
    CONSTRAINT ck_settings_singleton CHECK (singleton),
    CONSTRAINT ck_settings_request_cooldown CHECK (request_cooldown BETWEEN '0' AND '30 days'::interval)
);
COMMENT ON TABLE spotify_pipeline.settings IS 'One row: what the operator may tune in SQL, with UPDATE.';
CREATE TABLE spotify_pipeline.sync_run_chunks (
    run_id TEXT NOT NULL,
    chunk INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    seconds FLOAT(53),
    api_calls INTEGER,
    throttled_seconds FLOAT(53),
    CONSTRAINT pk_sync_run_chunks PRIMARY KEY (run_id, chunk),
    CONSTRAINT ck_sync_run_chunks_chunk CHECK (chunk >= 0),
    CONSTRAINT ck_sync_run_chunks_tries CHECK (tries >= 1),
    CONSTRAINT ck_sync_run_chunks_figures CHECK (seconds >= 0 AND api_calls >= 0 AND throttled_seconds >= 0)
);
CREATE INDEX ix_sync_run_chunks_started_at ON spotify_pipeline.sync_run_chunks (started_at);
COMMENT ON TABLE spotify_pipeline.sync_run_chunks IS 'One row per chunk of a run over many users: how often it was tried, what it cost.';
CREATE TABLE spotify_pipeline.time_zones (
    name TEXT NOT NULL,
    CONSTRAINT pk_time_zones PRIMARY KEY (name)
);
COMMENT ON TABLE spotify_pipeline.time_zones IS 'One row per time zone of the pinned tzdata package; filled by init-db. Postgres''s own list differs, so it is not asked.';
CREATE TABLE spotify_pipeline.tracks (
    spotify_id TEXT NOT NULL,
    name TEXT NOT NULL,
    duration_ms INTEGER,
    artist_ids TEXT[] NOT NULL,
    album_id TEXT,
    album_name TEXT,
    release_date TEXT,
    popularity SMALLINT,
    isrc TEXT,
    CONSTRAINT pk_tracks PRIMARY KEY (spotify_id),
    CONSTRAINT ck_tracks_duration_ms CHECK (duration_ms > 0),
    CONSTRAINT ck_tracks_artist_ids CHECK (cardinality(artist_ids) > 0 AND array_position(artist_ids, NULL) IS NULL),
    CONSTRAINT ck_tracks_popularity CHECK (popularity BETWEEN 0 AND 100)
);
COMMENT ON TABLE spotify_pipeline.tracks IS 'One row per track that was ever played or listed.';
CREATE TABLE spotify_pipeline.day_starts (
    timezone TEXT NOT NULL,
    since DATE NOT NULL,
    begins INTERVAL NOT NULL,
    CONSTRAINT pk_day_starts PRIMARY KEY (timezone, since),
    CONSTRAINT fk_day_starts_timezone FOREIGN KEY(timezone) REFERENCES spotify_pipeline.time_zones (name) ON DELETE CASCADE
);
COMMENT ON TABLE spotify_pipeline.day_starts IS 'One row per time zone and change of when its local days begin, by the pinned tzdata package; filled by init-db, so that SQL can tell days without Postgres''s own zones.';
CREATE TABLE spotify_pipeline.users (
    user_id TEXT NOT NULL,
    account_id TEXT,
    display_name TEXT,
    timezone TEXT DEFAULT 'UTC' NOT NULL,
    connection TEXT DEFAULT 'disconnected' NOT NULL,
    days_stale BOOLEAN DEFAULT false NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    plays_from TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_users PRIMARY KEY (user_id),
    CONSTRAINT ck_users_user_id CHECK (char_length(user_id) BETWEEN 1 AND 255 AND user_id !~ '[\u0001-\u001f\u007f-\u009f]' AND strpos(user_id, '...') = 0),
    CONSTRAINT ck_users_display_name CHECK (char_length(display_name) <= 255),
    CONSTRAINT ck_users_connection CHECK (connection IN ('disconnected', 'connected', 'expiring', 'needs_reauth', 'suspect')),
    CONSTRAINT uq_users_account_id UNIQUE (account_id),
    CONSTRAINT fk_users_timezone FOREIGN KEY(timezone) REFERENCES spotify_pipeline.time_zones (name)
);
COMMENT ON TABLE spotify_pipeline.users IS 'One row per person. Deleting it deletes everything we know about them.';
CREATE TABLE spotify_pipeline.coverage (
    user_id TEXT NOT NULL,
    covered_from TIMESTAMP WITH TIME ZONE NOT NULL,
    covered_to TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_coverage PRIMARY KEY (user_id, covered_from),
    CONSTRAINT ck_coverage_interval CHECK (covered_from <= covered_to),
    CONSTRAINT ck_coverage_finite CHECK (isfinite(covered_from) AND isfinite(covered_to)),
    CONSTRAINT ex_coverage_overlap EXCLUDE USING gist (spotify_pipeline.text_range(user_id, user_id, '[]') WITH &&, tstzrange(covered_from, covered_to, '[]') WITH &&) DEFERRABLE INITIALLY IMMEDIATE,
    CONSTRAINT fk_coverage_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
COMMENT ON TABLE spotify_pipeline.coverage IS 'One row per interval in which every play that the API lists is known; merged.';
CREATE TABLE spotify_pipeline.daily_listening (
    user_id TEXT NOT NULL,
    date DATE NOT NULL,
    minutes INTEGER NOT NULL,
    listened_ms BIGINT NOT NULL,
    plays INTEGER NOT NULL,
    unique_tracks INTEGER NOT NULL,
    unique_artists INTEGER NOT NULL,
    top_track_id TEXT,
    top_artist_id TEXT,
    completeness TEXT DEFAULT 'unknown' NOT NULL,
    computed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_daily_listening PRIMARY KEY (user_id, date),
    CONSTRAINT ck_daily_listening_counts CHECK (minutes >= 0 AND listened_ms >= 0 AND plays >= 0 AND unique_tracks >= 0 AND unique_artists >= 0),
    CONSTRAINT ck_daily_listening_completeness CHECK (completeness IN ('complete', 'at_least', 'unknown')),
    CONSTRAINT fk_daily_listening_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
CREATE INDEX ix_daily_listening_unsettled ON spotify_pipeline.daily_listening (user_id, completeness, date) WHERE completeness <> 'complete';
COMMENT ON TABLE spotify_pipeline.daily_listening IS 'One row per person and local day with a play.';
CREATE TABLE spotify_pipeline.fetch_log (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    user_id TEXT NOT NULL,
    fetched_at TIMESTAMP WITH TIME ZONE NOT NULL,
    items SMALLINT NOT NULL,
    new_plays SMALLINT NOT NULL,
    skipped JSONB DEFAULT '{}'::jsonb NOT NULL,
    oldest_item_at TIMESTAMP WITH TIME ZONE,
    newest_item_at TIMESTAMP WITH TIME ZONE,
    overlapped BOOLEAN NOT NULL,
    CONSTRAINT pk_fetch_log PRIMARY KEY (id),
    CONSTRAINT ck_fetch_log_counts CHECK (items >= 0 AND new_plays BETWEEN 0 AND items),
    CONSTRAINT ck_fetch_log_skipped CHECK (jsonb_typeof(skipped) = 'object'),
    CONSTRAINT ck_fetch_log_item_times CHECK (oldest_item_at <= newest_item_at),
    CONSTRAINT fk_fetch_log_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
CREATE INDEX ix_fetch_log_fetched_at ON spotify_pipeline.fetch_log (fetched_at);
CREATE INDEX ix_fetch_log_user_id_fetched_at ON spotify_pipeline.fetch_log (user_id, fetched_at);
COMMENT ON TABLE spotify_pipeline.fetch_log IS 'One row per fetched recently-played page; kept for a while.';
CREATE TABLE spotify_pipeline.listening_gaps (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    user_id TEXT NOT NULL,
    gap_start TIMESTAMP WITH TIME ZONE NOT NULL,
    gap_end TIMESTAMP WITH TIME ZONE NOT NULL,
    detected_at TIMESTAMP WITH TIME ZONE NOT NULL,
    closed_at TIMESTAMP WITH TIME ZONE,
    closed_by TEXT,
    CONSTRAINT pk_listening_gaps PRIMARY KEY (id),
    CONSTRAINT ck_listening_gaps_closed_by CHECK (closed_by IN ('page', 'import')),
    CONSTRAINT ck_listening_gaps_interval CHECK (gap_start < gap_end),
    CONSTRAINT ck_listening_gaps_closed CHECK ((closed_at IS NULL) = (closed_by IS NULL)),
    CONSTRAINT fk_listening_gaps_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
CREATE INDEX ix_listening_gaps_user_id ON spotify_pipeline.listening_gaps (user_id, gap_start);
CREATE UNIQUE INDEX uq_listening_gaps_open ON spotify_pipeline.listening_gaps (user_id, gap_start) WHERE closed_at IS NULL;
COMMENT ON TABLE spotify_pipeline.listening_gaps IS 'One row per interval in which plays were possibly lost.';
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
CREATE TABLE spotify_pipeline.music_personality (
    user_id TEXT NOT NULL,
    window_start DATE NOT NULL,
    window_end DATE NOT NULL,
    play_count INTEGER NOT NULL,
    artist_diversity FLOAT(53),
    artist_concentration FLOAT(53),
    repeat_share FLOAT(53),
    repeat_rate FLOAT(53),
    artist_discovery_rate FLOAT(53),
    taste_stability FLOAT(53),
    time_focus FLOAT(53),
    night_share FLOAT(53),
    weekend_share FLOAT(53),
    listening_regularity FLOAT(53),
    genre_diversity FLOAT(53),
    newness FLOAT(53),
    effective_artists FLOAT(53),
    unique_artists INTEGER,
    peak_hour FLOAT(53),
    longest_streak INTEGER,
    longest_streak_artist_id TEXT,
    current_streak INTEGER,
    streak_artist_id TEXT,
    mainstream_score FLOAT(53),
    reasons JSONB DEFAULT '{}'::jsonb NOT NULL,
    tags TEXT[] DEFAULT '{}'::text[] NOT NULL,
    definition_version SMALLINT NOT NULL,
    computed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_music_personality PRIMARY KEY (user_id),
    CONSTRAINT ck_music_personality_window CHECK (window_start <= window_end),
    CONSTRAINT ck_music_personality_counts CHECK (play_count >= 0 AND unique_artists >= 0),
    CONSTRAINT ck_music_personality_streaks CHECK (longest_streak >= 0 AND current_streak >= 0),
    CONSTRAINT ck_music_personality_effective_artists CHECK (effective_artists >= 1 AND effective_artists < 'Infinity'),
    CONSTRAINT ck_music_personality_peak_hour CHECK (peak_hour >= 0 AND peak_hour < 24),
    CONSTRAINT ck_music_personality_mainstream_score CHECK (mainstream_score BETWEEN 0 AND 100),
    CONSTRAINT ck_music_personality_reasons CHECK (jsonb_typeof(reasons) = 'object'),
    CONSTRAINT ck_music_personality_artist_diversity CHECK (artist_diversity BETWEEN 0 AND 1),
    CONSTRAINT ck_music_personality_artist_concentration CHECK (artist_concentration BETWEEN 0 AND 1),
    CONSTRAINT ck_music_personality_repeat_share CHECK (repeat_share BETWEEN 0 AND 1),
    CONSTRAINT ck_music_personality_repeat_rate CHECK (repeat_rate BETWEEN 0 AND 1),
    CONSTRAINT ck_music_personality_artist_discovery_rate CHECK (artist_discovery_rate BETWEEN 0 AND 1),
    CONSTRAINT ck_music_personality_taste_stability CHECK (taste_stability BETWEEN 0 AND 1),
    CONSTRAINT ck_music_personality_time_focus CHECK (time_focus BETWEEN 0 AND 1),
    CONSTRAINT ck_music_personality_night_share CHECK (night_share BETWEEN 0 AND 1),
    CONSTRAINT ck_music_personality_weekend_share CHECK (weekend_share BETWEEN 0 AND 1),
    CONSTRAINT ck_music_personality_listening_regularity CHECK (listening_regularity BETWEEN 0 AND 1),
    CONSTRAINT ck_music_personality_genre_diversity CHECK (genre_diversity BETWEEN 0 AND 1),
    CONSTRAINT ck_music_personality_newness CHECK (newness BETWEEN 0 AND 1),
    CONSTRAINT fk_music_personality_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
COMMENT ON TABLE spotify_pipeline.music_personality IS 'One row per person: what their listening is like over the last 28 local days.';
CREATE TABLE spotify_pipeline.plays (
    user_id TEXT NOT NULL,
    played_at TIMESTAMP WITH TIME ZONE NOT NULL,
    track_id TEXT NOT NULL,
    source TEXT NOT NULL,
    ms_played INTEGER,
    context_uri TEXT,
    artist_id TEXT,
    duration_ms INTEGER,
    release_date TEXT,
    CONSTRAINT pk_plays PRIMARY KEY (user_id, played_at, track_id),
    CONSTRAINT ck_plays_source CHECK (source IN ('api', 'export')),
    CONSTRAINT ck_plays_ms_played CHECK (ms_played >= 0),
    CONSTRAINT ck_plays_duration_ms CHECK (duration_ms > 0),
    CONSTRAINT fk_plays_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE,
    CONSTRAINT fk_plays_track_id FOREIGN KEY(track_id) REFERENCES spotify_pipeline.tracks (spotify_id)
);
CREATE INDEX ix_plays_incomplete ON spotify_pipeline.plays (user_id) WHERE artist_id IS NULL OR duration_ms IS NULL OR release_date IS NULL;
COMMENT ON TABLE spotify_pipeline.plays IS 'One row per play that the API lists or an export holds. Facts: never overwritten, everything else is computed from them.';
CREATE TABLE spotify_pipeline.request_locks (
    user_id TEXT NOT NULL,
    changes BIGINT DEFAULT 0 NOT NULL,
    CONSTRAINT pk_request_locks PRIMARY KEY (user_id),
    CONSTRAINT fk_request_locks_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
COMMENT ON TABLE spotify_pipeline.request_locks IS 'One row per person, made with them: locked while a request of theirs is decided.';
CREATE TABLE spotify_pipeline.sync_requests (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    user_id TEXT NOT NULL,
    requested_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    requested_by TEXT DEFAULT SESSION_USER NOT NULL,
    status TEXT DEFAULT 'queued' NOT NULL,
    attempts SMALLINT DEFAULT 0 NOT NULL,
    dispatch_key TEXT,
    run_id TEXT,
    started_at TIMESTAMP WITH TIME ZONE,
    finished_at TIMESTAMP WITH TIME ZONE,
    error_code TEXT,
    error_message TEXT,
    failures SMALLINT DEFAULT 0 NOT NULL,
    not_before TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_sync_requests PRIMARY KEY (id),
    CONSTRAINT ck_sync_requests_status CHECK (status IN ('queued', 'running', 'succeeded', 'failed')),
    CONSTRAINT ck_sync_requests_error_code CHECK (error_code IN ('RECONNECT', 'NOT_ALLOWLISTED', 'MISSING_SCOPE', 'APP_BLOCKED', 'CLIENT_MISMATCH', 'RATE_LIMITED', 'QUOTA_EXCEEDED', 'SPOTIFY_UNAVAILABLE', 'BAD_RESPONSE', 'CRASHED', 'CANCELLED', 'FORGOTTEN', 'INTERNAL')),
    CONSTRAINT ck_sync_requests_requested_by CHECK (char_length(requested_by) BETWEEN 1 AND 255),
    CONSTRAINT ck_sync_requests_attempts CHECK (attempts >= 0),
    CONSTRAINT ck_sync_requests_failures CHECK (failures >= 0),
    CONSTRAINT ck_sync_requests_started CHECK (status <> 'running' OR started_at IS NOT NULL),
    CONSTRAINT ck_sync_requests_finished CHECK ((finished_at IS NOT NULL) = (status IN ('succeeded', 'failed'))),
    CONSTRAINT ck_sync_requests_failed CHECK ((error_code IS NOT NULL) = (status = 'failed')),
    CONSTRAINT ck_sync_requests_error_message CHECK (error_message IS NULL OR status = 'failed'),
    CONSTRAINT fk_sync_requests_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
CREATE INDEX ix_sync_requests_user_id_id ON spotify_pipeline.sync_requests (user_id, id);
CREATE UNIQUE INDEX uq_sync_requests_open ON spotify_pipeline.sync_requests (user_id) WHERE status IN ('queued', 'running');
COMMENT ON TABLE spotify_pipeline.sync_requests IS 'One row per request for a sync. A trigger decides whether a request is accepted.';
CREATE TABLE spotify_pipeline.sync_run_users (
    run_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    chunk INTEGER,
    outcome TEXT,
    error_code TEXT,
    new_plays INTEGER,
    seconds FLOAT(53),
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_sync_run_users PRIMARY KEY (run_id, user_id),
    CONSTRAINT ck_sync_run_users_chunk CHECK (chunk >= 0),
    CONSTRAINT ck_sync_run_users_outcome CHECK (outcome IN ('synced', 'failed', 'skipped', 'gone')),
    CONSTRAINT ck_sync_run_users_error_code CHECK (error_code IN ('RECONNECT', 'NOT_ALLOWLISTED', 'MISSING_SCOPE', 'APP_BLOCKED', 'CLIENT_MISMATCH', 'RATE_LIMITED', 'QUOTA_EXCEEDED', 'SPOTIFY_UNAVAILABLE', 'BAD_RESPONSE', 'CRASHED', 'CANCELLED', 'FORGOTTEN', 'INTERNAL')),
    CONSTRAINT ck_sync_run_users_failed CHECK (outcome <> 'failed' OR error_code IS NOT NULL),
    CONSTRAINT ck_sync_run_users_synced CHECK (outcome <> 'synced' OR error_code IS NULL),
    CONSTRAINT ck_sync_run_users_figures CHECK (new_plays >= 0 AND seconds >= 0),
    CONSTRAINT fk_sync_run_users_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
CREATE INDEX ix_sync_run_users_created_at ON spotify_pipeline.sync_run_users (created_at);
CREATE INDEX ix_sync_run_users_run_id_chunk ON spotify_pipeline.sync_run_users (run_id, chunk);
CREATE INDEX ix_sync_run_users_user_id ON spotify_pipeline.sync_run_users (user_id);
COMMENT ON TABLE spotify_pipeline.sync_run_users IS 'One row per person in a run over many: who belongs to it and how it went.';
CREATE TABLE spotify_pipeline.sync_state (
    user_id TEXT NOT NULL,
    last_synced_at TIMESTAMP WITH TIME ZONE,
    last_success_at TIMESTAMP WITH TIME ZONE,
    recorded_at TIMESTAMP WITH TIME ZONE,
    plays_fetched_at TIMESTAMP WITH TIME ZONE,
    tops_fetched_at TIMESTAMP WITH TIME ZONE,
    consecutive_failures INTEGER DEFAULT 0 NOT NULL,
    last_error_code TEXT,
    last_error_message TEXT,
    next_due_at TIMESTAMP WITH TIME ZONE,
    lease_id UUID,
    lease_until TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_sync_state PRIMARY KEY (user_id),
    CONSTRAINT ck_sync_state_last_error_code CHECK (last_error_code IN ('RECONNECT', 'NOT_ALLOWLISTED', 'MISSING_SCOPE', 'APP_BLOCKED', 'CLIENT_MISMATCH', 'RATE_LIMITED', 'QUOTA_EXCEEDED', 'SPOTIFY_UNAVAILABLE', 'BAD_RESPONSE', 'CRASHED', 'CANCELLED', 'FORGOTTEN', 'INTERNAL')),
    CONSTRAINT ck_sync_state_consecutive_failures CHECK (consecutive_failures >= 0),
    CONSTRAINT ck_sync_state_lease CHECK ((lease_id IS NULL) = (lease_until IS NULL)),
    CONSTRAINT fk_sync_state_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
CREATE INDEX ix_sync_state_next_due_at ON spotify_pipeline.sync_state (next_due_at);
COMMENT ON TABLE spotify_pipeline.sync_state IS 'One row per person, made with them: how their syncs stand.';
CREATE TABLE spotify_pipeline.top_artists_history (
    user_id TEXT NOT NULL,
    time_range TEXT NOT NULL,
    valid_from TIMESTAMP WITH TIME ZONE NOT NULL,
    valid_to TIMESTAMP WITH TIME ZONE,
    rank SMALLINT NOT NULL,
    spotify_id TEXT NOT NULL,
    CONSTRAINT pk_top_artists_history PRIMARY KEY (user_id, time_range, valid_from, rank),
    CONSTRAINT ck_top_artists_history_time_range CHECK (time_range IN ('short_term', 'medium_term', 'long_term')),
    CONSTRAINT ck_top_artists_history_rank CHECK (rank BETWEEN 1 AND 50),
    CONSTRAINT ck_top_artists_history_interval CHECK (valid_from < valid_to),
    CONSTRAINT fk_top_artists_history_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
COMMENT ON TABLE spotify_pipeline.top_artists_history IS 'One row per line of a top artist list as it stood; a list that changed stays.';
CREATE TABLE spotify_pipeline.top_tracks_history (
    user_id TEXT NOT NULL,
    time_range TEXT NOT NULL,
    valid_from TIMESTAMP WITH TIME ZONE NOT NULL,
    valid_to TIMESTAMP WITH TIME ZONE,
    rank SMALLINT NOT NULL,
    spotify_id TEXT NOT NULL,
    CONSTRAINT pk_top_tracks_history PRIMARY KEY (user_id, time_range, valid_from, rank),
    CONSTRAINT ck_top_tracks_history_time_range CHECK (time_range IN ('short_term', 'medium_term', 'long_term')),
    CONSTRAINT ck_top_tracks_history_rank CHECK (rank BETWEEN 1 AND 50),
    CONSTRAINT ck_top_tracks_history_interval CHECK (valid_from < valid_to),
    CONSTRAINT fk_top_tracks_history_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
COMMENT ON TABLE spotify_pipeline.top_tracks_history IS 'One row per line of a top track list as it stood; a list that changed stays.';
CREATE TABLE spotify_pipeline.user_tokens (
    user_id TEXT NOT NULL,
    client_id TEXT NOT NULL,
    sealed_refresh_token BYTEA NOT NULL,
    key_id TEXT NOT NULL,
    scopes TEXT[] DEFAULT '{}'::text[] NOT NULL,
    authorized_at TIMESTAMP WITH TIME ZONE NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    last_refreshed_at TIMESTAMP WITH TIME ZONE,
    last_error_code TEXT,
    sealed_access_token BYTEA,
    access_expires_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_user_tokens PRIMARY KEY (user_id),
    CONSTRAINT ck_user_tokens_last_error_code CHECK (last_error_code IN ('RECONNECT', 'NOT_ALLOWLISTED', 'MISSING_SCOPE', 'APP_BLOCKED', 'CLIENT_MISMATCH', 'RATE_LIMITED', 'QUOTA_EXCEEDED', 'SPOTIFY_UNAVAILABLE', 'BAD_RESPONSE', 'CRASHED', 'CANCELLED', 'FORGOTTEN', 'INTERNAL')),
    CONSTRAINT ck_user_tokens_client_id CHECK (char_length(client_id) <= 255),
    CONSTRAINT ck_user_tokens_key_id CHECK (char_length(key_id) <= 255),
    CONSTRAINT ck_user_tokens_sealed_refresh_token CHECK (octet_length(sealed_refresh_token) <= 8192),
    CONSTRAINT ck_user_tokens_scopes CHECK (cardinality(scopes) <= 100 AND octet_length(array_to_string(scopes, ' ')) <= 4096),
    CONSTRAINT ck_user_tokens_access_token CHECK ((sealed_access_token IS NULL) = (access_expires_at IS NULL)),
    CONSTRAINT fk_user_tokens_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
COMMENT ON TABLE spotify_pipeline.user_tokens IS 'One row per person with a token. No token is readable without the operator''s key.';
CREATE TABLE spotify_pipeline.user_top_artists (
    user_id TEXT NOT NULL,
    time_range TEXT NOT NULL,
    rank SMALLINT NOT NULL,
    spotify_id TEXT NOT NULL,
    name TEXT NOT NULL,
    genres TEXT[],
    popularity SMALLINT,
    image_url TEXT,
    fetched_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_user_top_artists PRIMARY KEY (user_id, time_range, rank),
    CONSTRAINT ck_user_top_artists_time_range CHECK (time_range IN ('short_term', 'medium_term', 'long_term')),
    CONSTRAINT ck_user_top_artists_rank CHECK (rank BETWEEN 1 AND 50),
    CONSTRAINT ck_user_top_artists_popularity CHECK (popularity BETWEEN 0 AND 100),
    CONSTRAINT fk_user_top_artists_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
COMMENT ON TABLE spotify_pipeline.user_top_artists IS 'One row per person, time range and rank: the top artists now.';
CREATE TABLE spotify_pipeline.user_top_tracks (
    user_id TEXT NOT NULL,
    time_range TEXT NOT NULL,
    rank SMALLINT NOT NULL,
    spotify_id TEXT NOT NULL,
    name TEXT NOT NULL,
    artist_name TEXT NOT NULL,
    album_name TEXT,
    image_url TEXT,
    preview_url TEXT,
    fetched_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_user_top_tracks PRIMARY KEY (user_id, time_range, rank),
    CONSTRAINT ck_user_top_tracks_time_range CHECK (time_range IN ('short_term', 'medium_term', 'long_term')),
    CONSTRAINT ck_user_top_tracks_rank CHECK (rank BETWEEN 1 AND 50),
    CONSTRAINT fk_user_top_tracks_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
COMMENT ON TABLE spotify_pipeline.user_top_tracks IS 'One row per person, time range and rank: the top tracks now.';
CREATE TABLE spotify_pipeline.restamped_plays (
    user_id TEXT NOT NULL,
    shown_at TIMESTAMP WITH TIME ZONE NOT NULL,
    shown_track_id TEXT NOT NULL,
    played_at TIMESTAMP WITH TIME ZONE NOT NULL,
    track_id TEXT NOT NULL,
    noticed_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_restamped_plays PRIMARY KEY (user_id, shown_at, shown_track_id),
    CONSTRAINT fk_restamped_plays_user_id_played_at_track_id FOREIGN KEY(user_id, played_at, track_id) REFERENCES spotify_pipeline.plays (user_id, played_at, track_id) ON DELETE CASCADE,
    CONSTRAINT fk_restamped_plays_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
CREATE INDEX ix_restamped_plays_play ON spotify_pipeline.restamped_plays (user_id, played_at, track_id);
COMMENT ON TABLE spotify_pipeline.restamped_plays IS 'One row per other instant under which Spotify showed a stored play: one play is one play.';
CREATE FUNCTION spotify_pipeline.accept_request() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''written by init-db''; END';
CREATE FUNCTION spotify_pipeline.complete_play() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''written by init-db''; END';
CREATE FUNCTION spotify_pipeline.lock_leaving_user() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''written by init-db''; END';
CREATE FUNCTION spotify_pipeline.make_sync_state() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''written by init-db''; END';
CREATE FUNCTION spotify_pipeline.move_request() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''written by init-db''; END';
CREATE FUNCTION spotify_pipeline.note_connection() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''written by init-db''; END';
CREATE FUNCTION spotify_pipeline.notice_zone() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''written by init-db''; END';
CREATE FUNCTION spotify_pipeline.raise_tombstone() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''written by init-db''; END';
CREATE FUNCTION spotify_pipeline.set_token_expiry() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''written by init-db''; END';
CREATE FUNCTION spotify_pipeline.tally_days() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''written by init-db''; END';
CREATE FUNCTION spotify_pipeline.tally_plays() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''written by init-db''; END';
CREATE FUNCTION spotify_pipeline.tally_top_artists() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''written by init-db''; END';
CREATE TRIGGER tally_changed_days AFTER UPDATE ON spotify_pipeline.daily_listening REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION spotify_pipeline.tally_top_artists();
CREATE TRIGGER tally_gone_days AFTER DELETE ON spotify_pipeline.daily_listening REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION spotify_pipeline.tally_days();
CREATE TRIGGER tally_new_days AFTER INSERT ON spotify_pipeline.daily_listening REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION spotify_pipeline.tally_days();
CREATE TRIGGER complete_play BEFORE INSERT ON spotify_pipeline.plays FOR EACH ROW WHEN (((new.artist_id IS NULL) OR (new.duration_ms IS NULL) OR (new.release_date IS NULL))) EXECUTE FUNCTION spotify_pipeline.complete_play();
CREATE TRIGGER tally_gone_plays AFTER DELETE ON spotify_pipeline.plays REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION spotify_pipeline.tally_plays();
CREATE TRIGGER tally_new_plays AFTER INSERT ON spotify_pipeline.plays REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION spotify_pipeline.tally_plays();
CREATE TRIGGER accept_request BEFORE INSERT ON spotify_pipeline.sync_requests FOR EACH ROW EXECUTE FUNCTION spotify_pipeline.accept_request();
CREATE TRIGGER move_request BEFORE UPDATE ON spotify_pipeline.sync_requests FOR EACH ROW EXECUTE FUNCTION spotify_pipeline.move_request();
CREATE TRIGGER set_token_expiry BEFORE INSERT OR UPDATE ON spotify_pipeline.user_tokens FOR EACH ROW EXECUTE FUNCTION spotify_pipeline.set_token_expiry();
CREATE TRIGGER lock_leaving_user BEFORE DELETE ON spotify_pipeline.users FOR EACH ROW EXECUTE FUNCTION spotify_pipeline.lock_leaving_user();
CREATE TRIGGER make_sync_state AFTER INSERT ON spotify_pipeline.users FOR EACH ROW EXECUTE FUNCTION spotify_pipeline.make_sync_state();
CREATE TRIGGER note_connection AFTER UPDATE ON spotify_pipeline.users REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION spotify_pipeline.note_connection();
CREATE TRIGGER notice_zone BEFORE UPDATE OF timezone ON spotify_pipeline.users FOR EACH ROW EXECUTE FUNCTION spotify_pipeline.notice_zone();
CREATE TRIGGER raise_tombstone AFTER DELETE ON spotify_pipeline.users FOR EACH ROW EXECUTE FUNCTION spotify_pipeline.raise_tombstone();
INSERT INTO spotify_pipeline.api_budget DEFAULT VALUES;
INSERT INTO spotify_pipeline.settings DEFAULT VALUES;
CREATE TABLE spotify_pipeline.alembic_version (version_num varchar(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY);
INSERT INTO spotify_pipeline.alembic_version VALUES ('0007');
COMMENT ON TABLE spotify_pipeline.alembic_version IS 'One row: which revision of the schema this is.';
COMMENT ON COLUMN spotify_pipeline.alembic_version.version_num IS 'The revision, such as 0004.';
