-- The schema as it was first released. Never edited afterwards: a change is a new revision.
-- The schema itself is made by init-db; the bodies of functions are in storage/sql.

CREATE TYPE spotify_pipeline.text_range AS RANGE (SUBTYPE = text, COLLATION = "C");

CREATE TABLE spotify_pipeline.api_budget (
    singleton BOOLEAN DEFAULT true NOT NULL,
    rate_tat TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    day_tat TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    blocked_until TIMESTAMP WITH TIME ZONE,
    blocked_reason TEXT,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_api_budget PRIMARY KEY (singleton),
    CONSTRAINT ck_api_budget_singleton CHECK (singleton),
    CONSTRAINT ck_api_budget_blocked_reason CHECK (blocked_reason IN ('RATE', 'QUOTA', 'APP')),
    CONSTRAINT ck_api_budget_blocked CHECK ((blocked_until IS NULL) = (blocked_reason IS NULL))
);
COMMENT ON TABLE spotify_pipeline.api_budget IS 'One row: what the developer account may still ask of Spotify, for all processes.';
COMMENT ON COLUMN spotify_pipeline.api_budget.singleton IS 'Always true: there is one row.';
COMMENT ON COLUMN spotify_pipeline.api_budget.rate_tat IS 'Theoretical arrival time of the 30-second bucket (GCRA); in the past: it is empty.';
COMMENT ON COLUMN spotify_pipeline.api_budget.day_tat IS 'Theoretical arrival time of the 24-hour bucket (GCRA).';
COMMENT ON COLUMN spotify_pipeline.api_budget.blocked_until IS 'No call before this instant; NULL or past: not blocked.';
COMMENT ON COLUMN spotify_pipeline.api_budget.blocked_reason IS 'RATE: too many calls; QUOTA: the day''s quota is used up; APP: Spotify refuses the app.';
COMMENT ON COLUMN spotify_pipeline.api_budget.updated_at IS 'Last change of the block or a bucket.';

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
COMMENT ON COLUMN spotify_pipeline.artists.spotify_id IS 'Spotify''s id of the artist.';
COMMENT ON COLUMN spotify_pipeline.artists.name IS 'Name as Spotify shows it.';
COMMENT ON COLUMN spotify_pipeline.artists.genres IS 'Genre tags; NULL when Spotify did not say (it does not in development mode).';
COMMENT ON COLUMN spotify_pipeline.artists.popularity IS '0 to 100; NULL when not said.';
COMMENT ON COLUMN spotify_pipeline.artists.image_url IS 'A picture of the artist; NULL when not said.';

CREATE TABLE spotify_pipeline.settings (
    singleton BOOLEAN DEFAULT true NOT NULL,
    request_cooldown INTERVAL DEFAULT '01:00:00'::interval NOT NULL,
    CONSTRAINT pk_settings PRIMARY KEY (singleton),
    CONSTRAINT ck_settings_singleton CHECK (singleton),
    CONSTRAINT ck_settings_request_cooldown CHECK (request_cooldown BETWEEN '0' AND '30 days'::interval)
);
COMMENT ON TABLE spotify_pipeline.settings IS 'One row: what the operator may tune in SQL, with UPDATE.';
COMMENT ON COLUMN spotify_pipeline.settings.singleton IS 'Always true: there is one row.';
COMMENT ON COLUMN spotify_pipeline.settings.request_cooldown IS 'How long after a succeeded request a person waits before the next; ''0'' for no wait.';

CREATE TABLE spotify_pipeline.time_zones (
    name TEXT NOT NULL,
    CONSTRAINT pk_time_zones PRIMARY KEY (name)
);
COMMENT ON TABLE spotify_pipeline.time_zones IS 'One row per time zone of the pinned tzdata package; filled by init-db. Postgres''s own list differs, so it is not asked.';
COMMENT ON COLUMN spotify_pipeline.time_zones.name IS 'IANA name, spelled as in the tz database.';

CREATE TABLE spotify_pipeline.tracks (
    spotify_id TEXT NOT NULL,
    name TEXT NOT NULL,
    duration_ms INTEGER NOT NULL,
    artist_ids TEXT[] NOT NULL,
    album_id TEXT,
    album_name TEXT,
    release_date TEXT,
    popularity SMALLINT,
    CONSTRAINT pk_tracks PRIMARY KEY (spotify_id),
    CONSTRAINT ck_tracks_duration_ms CHECK (duration_ms >= 0),
    CONSTRAINT ck_tracks_artist_ids CHECK (cardinality(artist_ids) > 0 AND array_position(artist_ids, NULL) IS NULL),
    CONSTRAINT ck_tracks_popularity CHECK (popularity BETWEEN 0 AND 100)
);
COMMENT ON TABLE spotify_pipeline.tracks IS 'One row per track that was ever played or listed.';
COMMENT ON COLUMN spotify_pipeline.tracks.spotify_id IS 'Spotify''s id of the track.';
COMMENT ON COLUMN spotify_pipeline.tracks.name IS 'Title as Spotify shows it.';
COMMENT ON COLUMN spotify_pipeline.tracks.duration_ms IS 'Length in milliseconds.';
COMMENT ON COLUMN spotify_pipeline.tracks.artist_ids IS 'Ids of its artists; the first is the primary artist.';
COMMENT ON COLUMN spotify_pipeline.tracks.album_id IS 'Spotify''s id of the album.';
COMMENT ON COLUMN spotify_pipeline.tracks.album_name IS 'Title of the album.';
COMMENT ON COLUMN spotify_pipeline.tracks.release_date IS 'Release date of the album as sent: YYYY, YYYY-MM or YYYY-MM-DD.';
COMMENT ON COLUMN spotify_pipeline.tracks.popularity IS '0 to 100; NULL when not said.';

CREATE TABLE spotify_pipeline.users (
    user_id TEXT NOT NULL,
    account_id TEXT,
    display_name TEXT,
    timezone TEXT DEFAULT 'UTC' NOT NULL,
    connection TEXT DEFAULT 'disconnected' NOT NULL,
    days_stale BOOLEAN DEFAULT false NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_users PRIMARY KEY (user_id),
    CONSTRAINT ck_users_user_id CHECK (char_length(user_id) BETWEEN 1 AND 255 AND user_id !~ '[\u0001-\u001f\u007f-\u009f]' AND strpos(user_id, '...') = 0),
    CONSTRAINT ck_users_connection CHECK (connection IN ('disconnected', 'connected', 'expiring', 'needs_reauth', 'suspect')),
    CONSTRAINT uq_users_account_id UNIQUE (account_id),
    CONSTRAINT fk_users_timezone FOREIGN KEY(timezone) REFERENCES spotify_pipeline.time_zones (name)
);
COMMENT ON TABLE spotify_pipeline.users IS 'One row per person. Deleting it deletes everything we know about them.';
COMMENT ON COLUMN spotify_pipeline.users.user_id IS 'The app''s or Spotify''s name for the person; also the Dagster partition key.';
COMMENT ON COLUMN spotify_pipeline.users.account_id IS 'Spotify''s immutable account id; NULL until a token was used.';
COMMENT ON COLUMN spotify_pipeline.users.display_name IS 'The name to show; NULL if not known.';
COMMENT ON COLUMN spotify_pipeline.users.timezone IS 'IANA zone whose local dates the person''s days are.';
COMMENT ON COLUMN spotify_pipeline.users.connection IS 'State of the Spotify connection: disconnected (no token), connected, expiring (the token dies soon), needs_reauth (Spotify refuses it), suspect (refused while many others were).';
COMMENT ON COLUMN spotify_pipeline.users.days_stale IS 'True when every day must be recomputed: another zone, or plays without their days.';
COMMENT ON COLUMN spotify_pipeline.users.created_at IS 'When the person was registered.';

CREATE TABLE spotify_pipeline.coverage (
    user_id TEXT NOT NULL,
    covered_from TIMESTAMP WITH TIME ZONE NOT NULL,
    covered_to TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_coverage PRIMARY KEY (user_id, covered_from),
    CONSTRAINT ck_coverage_interval CHECK (covered_from <= covered_to),
    CONSTRAINT ck_coverage_finite CHECK (covered_from >= '1970-01-01T00:00:00+00:00' AND isfinite(covered_to)),
    CONSTRAINT ex_coverage_overlap EXCLUDE USING gist (spotify_pipeline.text_range(user_id, user_id, '[]') WITH &&, tstzrange(covered_from, covered_to, '[]') WITH &&) DEFERRABLE INITIALLY IMMEDIATE,
    CONSTRAINT fk_coverage_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
COMMENT ON TABLE spotify_pipeline.coverage IS 'One row per interval in which every play of a person is known; merged.';
COMMENT ON COLUMN spotify_pipeline.coverage.user_id IS 'The person this row belongs to; deleted with them.';
COMMENT ON COLUMN spotify_pipeline.coverage.covered_from IS 'Start of the interval; 1970-01-01T00:00:00Z: from the beginning.';
COMMENT ON COLUMN spotify_pipeline.coverage.covered_to IS 'End of the interval, inclusive.';

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
COMMENT ON TABLE spotify_pipeline.daily_listening IS 'One row per person and local day with a play.';
COMMENT ON COLUMN spotify_pipeline.daily_listening.user_id IS 'The person this row belongs to; deleted with them.';
COMMENT ON COLUMN spotify_pipeline.daily_listening.date IS 'Local date in the person''s zone.';
COMMENT ON COLUMN spotify_pipeline.daily_listening.minutes IS 'listened_ms in minutes, half up.';
COMMENT ON COLUMN spotify_pipeline.daily_listening.listened_ms IS 'Milliseconds heard: ms_played, or the track''s length where it is not known (an upper estimate).';
COMMENT ON COLUMN spotify_pipeline.daily_listening.plays IS 'API plays, and imported ones of 30 s or more.';
COMMENT ON COLUMN spotify_pipeline.daily_listening.unique_tracks IS 'Distinct tracks among them.';
COMMENT ON COLUMN spotify_pipeline.daily_listening.unique_artists IS 'Distinct primary artists among them.';
COMMENT ON COLUMN spotify_pipeline.daily_listening.top_track_id IS 'Most played track; ties: longest heard, first played, smallest id.';
COMMENT ON COLUMN spotify_pipeline.daily_listening.top_artist_id IS 'Most played primary artist; same ties.';
COMMENT ON COLUMN spotify_pipeline.daily_listening.completeness IS 'complete: every play of the day is known; at_least: there may be more; unknown.';
COMMENT ON COLUMN spotify_pipeline.daily_listening.computed_at IS 'When another column of the row last changed.';

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
COMMENT ON TABLE spotify_pipeline.fetch_log IS 'One row per fetched recently-played page; kept 30 days.';
COMMENT ON COLUMN spotify_pipeline.fetch_log.id IS 'Number of the page.';
COMMENT ON COLUMN spotify_pipeline.fetch_log.user_id IS 'The person this row belongs to; deleted with them.';
COMMENT ON COLUMN spotify_pipeline.fetch_log.fetched_at IS 'When the page was fetched.';
COMMENT ON COLUMN spotify_pipeline.fetch_log.items IS 'Raw items on the page, skipped ones included.';
COMMENT ON COLUMN spotify_pipeline.fetch_log.new_plays IS 'Plays on it that were not known before.';
COMMENT ON COLUMN spotify_pipeline.fetch_log.skipped IS 'Items that are no play: reason -> count.';
COMMENT ON COLUMN spotify_pipeline.fetch_log.oldest_item_at IS 'played_at of its oldest raw item.';
COMMENT ON COLUMN spotify_pipeline.fetch_log.newest_item_at IS 'played_at of its newest raw item.';
COMMENT ON COLUMN spotify_pipeline.fetch_log.overlapped IS 'True when a raw item stood on an earlier page or lay inside coverage.';

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
COMMENT ON COLUMN spotify_pipeline.listening_gaps.id IS 'Number of the gap.';
COMMENT ON COLUMN spotify_pipeline.listening_gaps.user_id IS 'The person this row belongs to; deleted with them.';
COMMENT ON COLUMN spotify_pipeline.listening_gaps.gap_start IS 'Newest play known before the page that missed its link.';
COMMENT ON COLUMN spotify_pipeline.listening_gaps.gap_end IS 'Oldest item of that page.';
COMMENT ON COLUMN spotify_pipeline.listening_gaps.detected_at IS 'When that page was fetched.';
COMMENT ON COLUMN spotify_pipeline.listening_gaps.closed_at IS 'When the gap was filled; NULL: open.';
COMMENT ON COLUMN spotify_pipeline.listening_gaps.closed_by IS 'What filled it: page (a later page reached back) or import.';

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
COMMENT ON COLUMN spotify_pipeline.music_personality.user_id IS 'The person this row belongs to; deleted with them.';
COMMENT ON COLUMN spotify_pipeline.music_personality.window_start IS 'First local date of the 28-day window.';
COMMENT ON COLUMN spotify_pipeline.music_personality.window_end IS 'Last local date of the window.';
COMMENT ON COLUMN spotify_pipeline.music_personality.play_count IS 'Plays in the window (API, or imported of 30 s or more).';
COMMENT ON COLUMN spotify_pipeline.music_personality.artist_diversity IS 'Shannon evenness of plays over artists. 0 to 1.';
COMMENT ON COLUMN spotify_pipeline.music_personality.artist_concentration IS 'Sum of squared artist shares (Herfindahl). 0 to 1.';
COMMENT ON COLUMN spotify_pipeline.music_personality.repeat_share IS '1 - distinct tracks / plays. 0 to 1.';
COMMENT ON COLUMN spotify_pipeline.music_personality.repeat_rate IS 'Tracks played at least twice / distinct tracks. 0 to 1.';
COMMENT ON COLUMN spotify_pipeline.music_personality.artist_discovery_rate IS 'Plays of artists not heard in the 180 days before. 0 to 1.';
COMMENT ON COLUMN spotify_pipeline.music_personality.taste_stability IS 'Jaccard of the short-term and long-term top artists. 0 to 1.';
COMMENT ON COLUMN spotify_pipeline.music_personality.time_focus IS 'Length R of the mean vector of play times on the 24-hour circle. 0 to 1.';
COMMENT ON COLUMN spotify_pipeline.music_personality.night_share IS 'Plays with a local hour in [0, 6). 0 to 1.';
COMMENT ON COLUMN spotify_pipeline.music_personality.weekend_share IS 'Plays on a local Saturday or Sunday. 0 to 1.';
COMMENT ON COLUMN spotify_pipeline.music_personality.listening_regularity IS 'Days with a play / observed days. 0 to 1.';
COMMENT ON COLUMN spotify_pipeline.music_personality.genre_diversity IS 'Entropy of genre tags / ln of the number of genres. 0 to 1.';
COMMENT ON COLUMN spotify_pipeline.music_personality.newness IS 'Plays of albums released at most 180 days before. 0 to 1.';
COMMENT ON COLUMN spotify_pipeline.music_personality.effective_artists IS 'exp of the Shannon entropy over artists (Hill number q = 1): from 1 to unique_artists.';
COMMENT ON COLUMN spotify_pipeline.music_personality.unique_artists IS 'Distinct primary artists in the window.';
COMMENT ON COLUMN spotify_pipeline.music_personality.peak_hour IS 'Circular mean of local play time, in hours from 0 up to 24.';
COMMENT ON COLUMN spotify_pipeline.music_personality.longest_streak IS 'Longest run of local days with the same top artist, ever; in days.';
COMMENT ON COLUMN spotify_pipeline.music_personality.longest_streak_artist_id IS 'That artist.';
COMMENT ON COLUMN spotify_pipeline.music_personality.current_streak IS 'The run that ends today or yesterday, in days.';
COMMENT ON COLUMN spotify_pipeline.music_personality.streak_artist_id IS 'The artist of the current streak.';
COMMENT ON COLUMN spotify_pipeline.music_personality.mainstream_score IS 'Rank-weighted popularity of the medium-term top artists, 0 to 100.';
COMMENT ON COLUMN spotify_pipeline.music_personality.reasons IS 'Why a metric is NULL: metric -> reason.';
COMMENT ON COLUMN spotify_pipeline.music_personality.tags IS 'Words for the whole, from the metrics alone.';
COMMENT ON COLUMN spotify_pipeline.music_personality.definition_version IS 'Version of the formulas and thresholds.';
COMMENT ON COLUMN spotify_pipeline.music_personality.computed_at IS 'When another column of the row last changed.';

CREATE TABLE spotify_pipeline.plays (
    user_id TEXT NOT NULL,
    played_at TIMESTAMP WITH TIME ZONE NOT NULL,
    track_id TEXT NOT NULL,
    source TEXT NOT NULL,
    ms_played INTEGER,
    context_uri TEXT,
    CONSTRAINT pk_plays PRIMARY KEY (user_id, played_at, track_id),
    CONSTRAINT ck_plays_source CHECK (source IN ('api', 'export')),
    CONSTRAINT ck_plays_ms_played CHECK (ms_played >= 0),
    CONSTRAINT fk_plays_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE,
    CONSTRAINT fk_plays_track_id FOREIGN KEY(track_id) REFERENCES spotify_pipeline.tracks (spotify_id)
);
CREATE UNIQUE INDEX uq_plays_api ON spotify_pipeline.plays (user_id, played_at) WHERE source = 'api';
COMMENT ON TABLE spotify_pipeline.plays IS 'One row per play. Facts: never overwritten, everything else is computed from them.';
COMMENT ON COLUMN spotify_pipeline.plays.user_id IS 'The person this row belongs to; deleted with them.';
COMMENT ON COLUMN spotify_pipeline.plays.played_at IS 'End of the play, to the millisecond.';
COMMENT ON COLUMN spotify_pipeline.plays.track_id IS 'The track.';
COMMENT ON COLUMN spotify_pipeline.plays.source IS 'api: recently played; export: the person''s own data export.';
COMMENT ON COLUMN spotify_pipeline.plays.ms_played IS 'Milliseconds heard; NULL for API plays, which do not say (30 s or more).';
COMMENT ON COLUMN spotify_pipeline.plays.context_uri IS 'Playlist, album or artist it was played from.';

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
    CONSTRAINT pk_sync_requests PRIMARY KEY (id),
    CONSTRAINT ck_sync_requests_status CHECK (status IN ('queued', 'running', 'succeeded', 'failed')),
    CONSTRAINT ck_sync_requests_error_code CHECK (error_code IN ('RECONNECT', 'NOT_ALLOWLISTED', 'MISSING_SCOPE', 'APP_BLOCKED', 'CLIENT_MISMATCH', 'RATE_LIMITED', 'QUOTA_EXCEEDED', 'SPOTIFY_UNAVAILABLE', 'BAD_RESPONSE', 'CRASHED', 'CANCELLED', 'FORGOTTEN', 'INTERNAL')),
    CONSTRAINT ck_sync_requests_requested_by CHECK (char_length(requested_by) BETWEEN 1 AND 255),
    CONSTRAINT ck_sync_requests_attempts CHECK (attempts >= 0),
    CONSTRAINT ck_sync_requests_started CHECK (status <> 'running' OR started_at IS NOT NULL),
    CONSTRAINT ck_sync_requests_finished CHECK ((finished_at IS NOT NULL) = (status IN ('succeeded', 'failed'))),
    CONSTRAINT ck_sync_requests_failed CHECK ((error_code IS NOT NULL) = (status = 'failed')),
    CONSTRAINT ck_sync_requests_error_message CHECK (error_message IS NULL OR status = 'failed'),
    CONSTRAINT fk_sync_requests_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
CREATE INDEX ix_sync_requests_user_id_id ON spotify_pipeline.sync_requests (user_id, id);
CREATE UNIQUE INDEX uq_sync_requests_open ON spotify_pipeline.sync_requests (user_id) WHERE status IN ('queued', 'running');
COMMENT ON TABLE spotify_pipeline.sync_requests IS 'One row per request for a sync. A trigger decides whether a request is accepted.';
COMMENT ON COLUMN spotify_pipeline.sync_requests.id IS 'Number of the request.';
COMMENT ON COLUMN spotify_pipeline.sync_requests.user_id IS 'The person this row belongs to; deleted with them.';
COMMENT ON COLUMN spotify_pipeline.sync_requests.requested_at IS 'When it was accepted.';
COMMENT ON COLUMN spotify_pipeline.sync_requests.requested_by IS 'Who asked; the database login unless the app says more.';
COMMENT ON COLUMN spotify_pipeline.sync_requests.status IS 'queued, running, succeeded or failed.';
COMMENT ON COLUMN spotify_pipeline.sync_requests.attempts IS 'How often a run was started for it.';
COMMENT ON COLUMN spotify_pipeline.sync_requests.dispatch_key IS 'Key of the latest run asked for; NULL before.';
COMMENT ON COLUMN spotify_pipeline.sync_requests.run_id IS 'Dagster run that serves it.';
COMMENT ON COLUMN spotify_pipeline.sync_requests.started_at IS 'When it began to run.';
COMMENT ON COLUMN spotify_pipeline.sync_requests.finished_at IS 'When it succeeded or failed.';
COMMENT ON COLUMN spotify_pipeline.sync_requests.error_code IS 'Why it failed; a code of the closed list.';
COMMENT ON COLUMN spotify_pipeline.sync_requests.error_message IS 'The same for a person to read.';

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
COMMENT ON COLUMN spotify_pipeline.sync_run_users.run_id IS 'Dagster run.';
COMMENT ON COLUMN spotify_pipeline.sync_run_users.user_id IS 'The person this row belongs to; deleted with them.';
COMMENT ON COLUMN spotify_pipeline.sync_run_users.chunk IS 'Chunk of the run; NULL until assigned.';
COMMENT ON COLUMN spotify_pipeline.sync_run_users.outcome IS 'synced: every step succeeded; failed: one did not; skipped: not tried; gone: forgotten meanwhile; NULL until known.';
COMMENT ON COLUMN spotify_pipeline.sync_run_users.error_code IS 'Why it failed or was skipped.';
COMMENT ON COLUMN spotify_pipeline.sync_run_users.new_plays IS 'Plays stored.';
COMMENT ON COLUMN spotify_pipeline.sync_run_users.seconds IS 'How long it took.';
COMMENT ON COLUMN spotify_pipeline.sync_run_users.created_at IS 'When the person was chosen.';

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
COMMENT ON COLUMN spotify_pipeline.sync_state.user_id IS 'The person this row belongs to; deleted with them.';
COMMENT ON COLUMN spotify_pipeline.sync_state.last_synced_at IS 'Last time anything was brought up to date (facts clock).';
COMMENT ON COLUMN spotify_pipeline.sync_state.last_success_at IS 'Last sync in which every step succeeded (facts clock).';
COMMENT ON COLUMN spotify_pipeline.sync_state.recorded_at IS 'When the last result was written (database clock, unlike the two before).';
COMMENT ON COLUMN spotify_pipeline.sync_state.plays_fetched_at IS 'Last successful fetch of plays (facts clock).';
COMMENT ON COLUMN spotify_pipeline.sync_state.tops_fetched_at IS 'Last successful fetch of all top lists (facts clock).';
COMMENT ON COLUMN spotify_pipeline.sync_state.consecutive_failures IS 'Failed syncs since the last success.';
COMMENT ON COLUMN spotify_pipeline.sync_state.last_error_code IS 'Why the last sync failed; NULL if it did not.';
COMMENT ON COLUMN spotify_pipeline.sync_state.last_error_message IS 'The same for a person to read.';
COMMENT ON COLUMN spotify_pipeline.sync_state.next_due_at IS 'When plays are to be polled next; NULL: now.';
COMMENT ON COLUMN spotify_pipeline.sync_state.lease_id IS 'Who may write for this person; NULL: nobody.';
COMMENT ON COLUMN spotify_pipeline.sync_state.lease_until IS 'When that permission ends unless renewed.';

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
COMMENT ON COLUMN spotify_pipeline.top_artists_history.user_id IS 'The person this row belongs to; deleted with them.';
COMMENT ON COLUMN spotify_pipeline.top_artists_history.time_range IS 'short_term (about 4 weeks), medium_term (6 months), long_term (about 1 year).';
COMMENT ON COLUMN spotify_pipeline.top_artists_history.valid_from IS 'When the list was first received.';
COMMENT ON COLUMN spotify_pipeline.top_artists_history.valid_to IS 'When another list replaced it; NULL: it is the present one.';
COMMENT ON COLUMN spotify_pipeline.top_artists_history.rank IS 'Position in Spotify''s list; 1 is the first.';
COMMENT ON COLUMN spotify_pipeline.top_artists_history.spotify_id IS 'Spotify''s id of the artist.';

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
COMMENT ON COLUMN spotify_pipeline.top_tracks_history.user_id IS 'The person this row belongs to; deleted with them.';
COMMENT ON COLUMN spotify_pipeline.top_tracks_history.time_range IS 'short_term (about 4 weeks), medium_term (6 months), long_term (about 1 year).';
COMMENT ON COLUMN spotify_pipeline.top_tracks_history.valid_from IS 'When the list was first received.';
COMMENT ON COLUMN spotify_pipeline.top_tracks_history.valid_to IS 'When another list replaced it; NULL: it is the present one.';
COMMENT ON COLUMN spotify_pipeline.top_tracks_history.rank IS 'Position in Spotify''s list; 1 is the first.';
COMMENT ON COLUMN spotify_pipeline.top_tracks_history.spotify_id IS 'Spotify''s id of the track.';

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
    CONSTRAINT ck_user_tokens_access_token CHECK ((sealed_access_token IS NULL) = (access_expires_at IS NULL)),
    CONSTRAINT fk_user_tokens_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
COMMENT ON TABLE spotify_pipeline.user_tokens IS 'One row per person with a token. No token is readable without the operator''s key.';
COMMENT ON COLUMN spotify_pipeline.user_tokens.user_id IS 'The person this row belongs to; deleted with them.';
COMMENT ON COLUMN spotify_pipeline.user_tokens.client_id IS 'The Spotify client id the token was issued to.';
COMMENT ON COLUMN spotify_pipeline.user_tokens.sealed_refresh_token IS 'libsodium sealed box of the refresh token and the user id.';
COMMENT ON COLUMN spotify_pipeline.user_tokens.key_id IS 'Which of the operator''s keys opens the sealed tokens.';
COMMENT ON COLUMN spotify_pipeline.user_tokens.scopes IS 'Scopes the person granted.';
COMMENT ON COLUMN spotify_pipeline.user_tokens.authorized_at IS 'When the person authorized the app at Spotify.';
COMMENT ON COLUMN spotify_pipeline.user_tokens.expires_at IS 'When Spotify lets the refresh token die: authorized_at + 6 months. Left out or outdated by a new authorized_at, a trigger computes it.';
COMMENT ON COLUMN spotify_pipeline.user_tokens.last_refreshed_at IS 'Last time Spotify was asked for an access token; whether it gave one says last_error_code.';
COMMENT ON COLUMN spotify_pipeline.user_tokens.last_error_code IS 'Why the last refresh failed; NULL if it succeeded.';
COMMENT ON COLUMN spotify_pipeline.user_tokens.sealed_access_token IS 'Sealed box of the current access token, so that processes share it; NULL if none.';
COMMENT ON COLUMN spotify_pipeline.user_tokens.access_expires_at IS 'When the access token expires.';

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
COMMENT ON COLUMN spotify_pipeline.user_top_artists.user_id IS 'The person this row belongs to; deleted with them.';
COMMENT ON COLUMN spotify_pipeline.user_top_artists.time_range IS 'short_term (about 4 weeks), medium_term (6 months), long_term (about 1 year).';
COMMENT ON COLUMN spotify_pipeline.user_top_artists.rank IS 'Position in Spotify''s list; 1 is the first.';
COMMENT ON COLUMN spotify_pipeline.user_top_artists.spotify_id IS 'Spotify''s id of the artist.';
COMMENT ON COLUMN spotify_pipeline.user_top_artists.name IS 'Name as Spotify shows it.';
COMMENT ON COLUMN spotify_pipeline.user_top_artists.genres IS 'Genre tags; NULL when not said.';
COMMENT ON COLUMN spotify_pipeline.user_top_artists.popularity IS '0 to 100; NULL when not said.';
COMMENT ON COLUMN spotify_pipeline.user_top_artists.image_url IS 'A picture of the artist.';
COMMENT ON COLUMN spotify_pipeline.user_top_artists.fetched_at IS 'When the list was last received.';

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
COMMENT ON COLUMN spotify_pipeline.user_top_tracks.user_id IS 'The person this row belongs to; deleted with them.';
COMMENT ON COLUMN spotify_pipeline.user_top_tracks.time_range IS 'short_term (about 4 weeks), medium_term (6 months), long_term (about 1 year).';
COMMENT ON COLUMN spotify_pipeline.user_top_tracks.rank IS 'Position in Spotify''s list; 1 is the first.';
COMMENT ON COLUMN spotify_pipeline.user_top_tracks.spotify_id IS 'Spotify''s id of the track.';
COMMENT ON COLUMN spotify_pipeline.user_top_tracks.name IS 'Title as Spotify shows it.';
COMMENT ON COLUMN spotify_pipeline.user_top_tracks.artist_name IS 'Name of the primary artist.';
COMMENT ON COLUMN spotify_pipeline.user_top_tracks.album_name IS 'Title of the album.';
COMMENT ON COLUMN spotify_pipeline.user_top_tracks.image_url IS 'The album''s cover.';
COMMENT ON COLUMN spotify_pipeline.user_top_tracks.preview_url IS 'A 30-second excerpt; Spotify sends none since 2024.';
COMMENT ON COLUMN spotify_pipeline.user_top_tracks.fetched_at IS 'When the list was last received.';

-- One row each.
INSERT INTO spotify_pipeline.api_budget DEFAULT VALUES;
INSERT INTO spotify_pipeline.settings DEFAULT VALUES;

-- Triggers belong to the tables. What they do is in storage/sql, which init-db applies next and
-- again at every run, so an error in a function is corrected without locking a table.
CREATE FUNCTION spotify_pipeline.make_sync_state() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE ''run spotify-pipeline init-db''; END';
CREATE FUNCTION spotify_pipeline.notice_zone() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE ''run spotify-pipeline init-db''; END';
CREATE FUNCTION spotify_pipeline.set_token_expiry() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE ''run spotify-pipeline init-db''; END';
CREATE FUNCTION spotify_pipeline.accept_request() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE ''run spotify-pipeline init-db''; END';
CREATE FUNCTION spotify_pipeline.move_request() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE ''run spotify-pipeline init-db''; END';

CREATE TRIGGER make_sync_state AFTER INSERT ON spotify_pipeline.users
    FOR EACH ROW EXECUTE FUNCTION spotify_pipeline.make_sync_state();
CREATE TRIGGER notice_zone BEFORE UPDATE OF timezone ON spotify_pipeline.users
    FOR EACH ROW EXECUTE FUNCTION spotify_pipeline.notice_zone();
CREATE TRIGGER set_token_expiry BEFORE INSERT OR UPDATE ON spotify_pipeline.user_tokens
    FOR EACH ROW EXECUTE FUNCTION spotify_pipeline.set_token_expiry();
CREATE TRIGGER accept_request BEFORE INSERT ON spotify_pipeline.sync_requests
    FOR EACH ROW EXECUTE FUNCTION spotify_pipeline.accept_request();
CREATE TRIGGER move_request BEFORE UPDATE ON spotify_pipeline.sync_requests
    FOR EACH ROW EXECUTE FUNCTION spotify_pipeline.move_request();
