CREATE TABLE spotify_pipeline.top_lists (
    user_id text NOT NULL,
    kind text NOT NULL,
    time_range text NOT NULL,
    fetched_at timestamptz NOT NULL,
    CONSTRAINT pk_top_lists PRIMARY KEY (user_id, kind, time_range),
    CONSTRAINT fk_top_lists_user_id FOREIGN KEY (user_id)
        REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE,
    CONSTRAINT ck_top_lists_kind CHECK (kind IN ('artists', 'tracks')),
    CONSTRAINT ck_top_lists_time_range CHECK (time_range IN ('short_term', 'medium_term', 'long_term'))
);
INSERT INTO spotify_pipeline.top_lists
SELECT user_id, 'artists', time_range, max(fetched_at)
FROM spotify_pipeline.user_top_artists GROUP BY user_id, time_range
UNION ALL
SELECT user_id, 'tracks', time_range, max(fetched_at)
FROM spotify_pipeline.user_top_tracks GROUP BY user_id, time_range;

CREATE TABLE spotify_pipeline.top_list_versions (
    user_id text NOT NULL,
    kind text NOT NULL,
    time_range text NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_to timestamptz,
    spotify_ids text[] NOT NULL,
    CONSTRAINT pk_top_list_versions PRIMARY KEY (user_id, kind, time_range, valid_from),
    CONSTRAINT fk_top_list_versions_user_id FOREIGN KEY (user_id)
        REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE,
    CONSTRAINT ck_top_list_versions_kind CHECK (kind IN ('artists', 'tracks')),
    CONSTRAINT ck_top_list_versions_time_range CHECK (time_range IN ('short_term', 'medium_term', 'long_term')),
    CONSTRAINT ck_top_list_versions_spotify_ids CHECK (cardinality(spotify_ids) BETWEEN 1 AND 50),
    CONSTRAINT ck_top_list_versions_interval CHECK (valid_from < valid_to)
);
INSERT INTO spotify_pipeline.top_list_versions
SELECT user_id, 'artists', time_range, valid_from, valid_to, array_agg(spotify_id ORDER BY rank)
FROM spotify_pipeline.top_artists_history GROUP BY user_id, time_range, valid_from, valid_to
UNION ALL
SELECT user_id, 'tracks', time_range, valid_from, valid_to, array_agg(spotify_id ORDER BY rank)
FROM spotify_pipeline.top_tracks_history GROUP BY user_id, time_range, valid_from, valid_to;
DROP TABLE spotify_pipeline.top_artists_history;
DROP TABLE spotify_pipeline.top_tracks_history;

ALTER TABLE spotify_pipeline.user_top_artists DROP COLUMN fetched_at;
ALTER TABLE spotify_pipeline.user_top_artists RENAME TO top_list_artists;
ALTER TABLE spotify_pipeline.top_list_artists RENAME CONSTRAINT pk_user_top_artists
    TO pk_top_list_artists;
ALTER TABLE spotify_pipeline.top_list_artists RENAME CONSTRAINT fk_user_top_artists_user_id
    TO fk_top_list_artists_user_id;
ALTER TABLE spotify_pipeline.top_list_artists RENAME CONSTRAINT ck_user_top_artists_time_range
    TO ck_top_list_artists_time_range;
ALTER TABLE spotify_pipeline.top_list_artists RENAME CONSTRAINT ck_user_top_artists_rank
    TO ck_top_list_artists_rank;
ALTER TABLE spotify_pipeline.top_list_artists RENAME CONSTRAINT ck_user_top_artists_popularity
    TO ck_top_list_artists_popularity;

ALTER TABLE spotify_pipeline.user_top_tracks DROP COLUMN fetched_at;
ALTER TABLE spotify_pipeline.user_top_tracks RENAME TO top_list_tracks;
ALTER TABLE spotify_pipeline.top_list_tracks RENAME CONSTRAINT pk_user_top_tracks
    TO pk_top_list_tracks;
ALTER TABLE spotify_pipeline.top_list_tracks RENAME CONSTRAINT fk_user_top_tracks_user_id
    TO fk_top_list_tracks_user_id;
ALTER TABLE spotify_pipeline.top_list_tracks RENAME CONSTRAINT ck_user_top_tracks_time_range
    TO ck_top_list_tracks_time_range;
ALTER TABLE spotify_pipeline.top_list_tracks RENAME CONSTRAINT ck_user_top_tracks_rank
    TO ck_top_list_tracks_rank;
