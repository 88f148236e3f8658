-- Top lists line by line, as apps and analysts read them. Stored are the lines of the present lists,
-- when each list was last received, and one row per list as it stood.

CREATE OR REPLACE VIEW user_top_artists AS
SELECT
    i.user_id, i.time_range, i.rank, i.spotify_id, i.name, i.genres, i.popularity, i.image_url,
    l.fetched_at
FROM top_list_artists AS i
JOIN top_lists AS l ON l.user_id = i.user_id AND l.kind = 'artists' AND l.time_range = i.time_range;

CREATE OR REPLACE VIEW user_top_tracks AS
SELECT
    i.user_id, i.time_range, i.rank, i.spotify_id, i.name, i.artist_name, i.album_name, i.image_url,
    i.preview_url, l.fetched_at
FROM top_list_tracks AS i
JOIN top_lists AS l ON l.user_id = i.user_id AND l.kind = 'tracks' AND l.time_range = i.time_range;

CREATE OR REPLACE VIEW top_artists_history AS
SELECT v.user_id, v.time_range, v.valid_from, v.valid_to, i.rank::smallint AS rank, i.spotify_id
FROM top_list_versions AS v
CROSS JOIN LATERAL unnest(v.spotify_ids) WITH ORDINALITY AS i (spotify_id, rank)
WHERE v.kind = 'artists';

CREATE OR REPLACE VIEW top_tracks_history AS
SELECT v.user_id, v.time_range, v.valid_from, v.valid_to, i.rank::smallint AS rank, i.spotify_id
FROM top_list_versions AS v
CROSS JOIN LATERAL unnest(v.spotify_ids) WITH ORDINALITY AS i (spotify_id, rank)
WHERE v.kind = 'tracks';
