ALTER TABLE spotify_pipeline.tracks ADD COLUMN artist_name TEXT;
CREATE INDEX ix_artists_name ON spotify_pipeline.artists USING hash (name);

DROP INDEX spotify_pipeline.ix_plays_incomplete;
CREATE INDEX ix_plays_incomplete ON spotify_pipeline.plays (user_id)
    WHERE source = 'api' AND (artist_id IS NULL OR duration_ms IS NULL OR release_date IS NULL);
DROP TRIGGER complete_play ON spotify_pipeline.plays;
CREATE TRIGGER complete_play BEFORE INSERT ON spotify_pipeline.plays
    FOR EACH ROW
    WHEN (
        NEW.artist_id IS NULL
        OR NEW.source = 'api' AND (NEW.duration_ms IS NULL OR NEW.release_date IS NULL)
    )
    EXECUTE FUNCTION spotify_pipeline.complete_play();

ALTER TABLE spotify_pipeline.coverage
    ADD COLUMN basis TEXT DEFAULT 'api' NOT NULL,
    ADD CONSTRAINT ck_coverage_basis CHECK (basis IN ('api', 'export')),
    DROP CONSTRAINT pk_coverage,
    ADD CONSTRAINT pk_coverage PRIMARY KEY (user_id, covered_from, basis),
    DROP CONSTRAINT ex_coverage_overlap,
    ADD CONSTRAINT ex_coverage_overlap EXCLUDE USING gist (
        spotify_pipeline.text_range(user_id, user_id, '[]') WITH &&,
        spotify_pipeline.text_range(basis, basis, '[]') WITH &&,
        tstzrange(covered_from, covered_to, '[]') WITH &&
    ) DEFERRABLE INITIALLY IMMEDIATE;

ALTER TABLE spotify_pipeline.daily_listening
    ADD COLUMN basis TEXT DEFAULT 'api' NOT NULL,
    ADD CONSTRAINT ck_daily_listening_basis CHECK (basis IN ('api', 'export', 'both'));

CREATE TABLE spotify_pipeline.history_imports (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    user_id TEXT NOT NULL,
    requested_by TEXT DEFAULT SESSION_USER NOT NULL,
    status TEXT NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE,
    rows_read INTEGER DEFAULT 0 NOT NULL,
    "new" INTEGER DEFAULT 0 NOT NULL,
    matched INTEGER DEFAULT 0 NOT NULL,
    known INTEGER DEFAULT 0 NOT NULL,
    repeated INTEGER DEFAULT 0 NOT NULL,
    short INTEGER DEFAULT 0 NOT NULL,
    silent INTEGER DEFAULT 0 NOT NULL,
    podcast INTEGER DEFAULT 0 NOT NULL,
    audiobook INTEGER DEFAULT 0 NOT NULL,
    local INTEGER DEFAULT 0 NOT NULL,
    incognito INTEGER DEFAULT 0 NOT NULL,
    superseded INTEGER DEFAULT 0 NOT NULL,
    malformed INTEGER DEFAULT 0 NOT NULL,
    future INTEGER DEFAULT 0 NOT NULL,
    before_retention INTEGER DEFAULT 0 NOT NULL,
    first_at TIMESTAMP WITH TIME ZONE,
    last_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_history_imports PRIMARY KEY (id),
    CONSTRAINT ck_history_imports_status CHECK (status IN ('open', 'closed', 'succeeded', 'failed')),
    CONSTRAINT ck_history_imports_finished CHECK ((finished_at IS NULL) = (status IN ('open', 'closed'))),
    CONSTRAINT ck_history_imports_fates CHECK (status <> 'succeeded' OR rows_read = new + matched + known + repeated + short + silent + podcast + audiobook + local + incognito + superseded + malformed + future + before_retention),
    CONSTRAINT fk_history_imports_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
CREATE INDEX ix_history_imports_user_id ON spotify_pipeline.history_imports (user_id);
CREATE TABLE spotify_pipeline.history_import_files (
    import_id BIGINT NOT NULL,
    number INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    rows_read INTEGER DEFAULT 0 NOT NULL,
    "new" INTEGER DEFAULT 0 NOT NULL,
    matched INTEGER DEFAULT 0 NOT NULL,
    known INTEGER DEFAULT 0 NOT NULL,
    repeated INTEGER DEFAULT 0 NOT NULL,
    short INTEGER DEFAULT 0 NOT NULL,
    silent INTEGER DEFAULT 0 NOT NULL,
    podcast INTEGER DEFAULT 0 NOT NULL,
    audiobook INTEGER DEFAULT 0 NOT NULL,
    local INTEGER DEFAULT 0 NOT NULL,
    incognito INTEGER DEFAULT 0 NOT NULL,
    superseded INTEGER DEFAULT 0 NOT NULL,
    malformed INTEGER DEFAULT 0 NOT NULL,
    future INTEGER DEFAULT 0 NOT NULL,
    before_retention INTEGER DEFAULT 0 NOT NULL,
    first_at TIMESTAMP WITH TIME ZONE,
    last_at TIMESTAMP WITH TIME ZONE,
    malformed_rows JSONB DEFAULT '[]' NOT NULL,
    CONSTRAINT pk_history_import_files PRIMARY KEY (import_id, number),
    CONSTRAINT ck_history_import_files_source CHECK (source IN ('extended', 'account')),
    CONSTRAINT ck_history_import_files_fates CHECK (rows_read = new + matched + known + repeated + short + silent + podcast + audiobook + local + incognito + superseded + malformed + future + before_retention),
    CONSTRAINT fk_history_import_files_import_id FOREIGN KEY(import_id) REFERENCES spotify_pipeline.history_imports (id) ON DELETE CASCADE,
    CONSTRAINT fk_history_import_files_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
CREATE INDEX ix_history_import_files_user_id ON spotify_pipeline.history_import_files (user_id);
CREATE TABLE spotify_pipeline.imported_plays (
    user_id TEXT NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE NOT NULL,
    track_id TEXT NOT NULL,
    ms_played INTEGER NOT NULL,
    source TEXT NOT NULL,
    offline_started_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_imported_plays PRIMARY KEY (user_id, ended_at, track_id, ms_played, source),
    CONSTRAINT ck_imported_plays_source CHECK (source IN ('extended', 'account')),
    CONSTRAINT ck_imported_plays_ms_played CHECK (ms_played > 0),
    CONSTRAINT fk_imported_plays_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE
);
CREATE TABLE spotify_pipeline.imported_tracks (
    user_id TEXT NOT NULL,
    track_id TEXT NOT NULL,
    artist_id TEXT NOT NULL,
    CONSTRAINT pk_imported_tracks PRIMARY KEY (user_id, track_id),
    CONSTRAINT fk_imported_tracks_user_id FOREIGN KEY(user_id) REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE,
    CONSTRAINT fk_imported_tracks_track_id FOREIGN KEY(track_id) REFERENCES spotify_pipeline.tracks (spotify_id)
);
