-- The catalogue: a length of 0 is none.
ALTER TABLE spotify_pipeline.tracks ALTER duration_ms DROP NOT NULL;
UPDATE spotify_pipeline.tracks SET duration_ms = NULL WHERE duration_ms = 0;
ALTER TABLE spotify_pipeline.tracks
    DROP CONSTRAINT ck_tracks_duration_ms,
    ADD CONSTRAINT ck_tracks_duration_ms CHECK (duration_ms > 0),
    ADD isrc text;
COMMENT ON COLUMN spotify_pipeline.artists.name IS 'Name as Spotify shows it; empty if it never sent one.';
COMMENT ON COLUMN spotify_pipeline.tracks.name IS 'Title as Spotify shows it; empty if it never sent one.';
COMMENT ON COLUMN spotify_pipeline.tracks.duration_ms IS 'Length in milliseconds; NULL if Spotify never sent one. A play keeps its own.';
COMMENT ON COLUMN spotify_pipeline.tracks.isrc IS 'International Standard Recording Code, equal for all ids of a recording; NULL when not said.';

-- Plays keep the facts of their track. Those stored so far take what the catalogue says now.
ALTER TABLE spotify_pipeline.plays
    ADD artist_id text,
    ADD duration_ms integer CONSTRAINT ck_plays_duration_ms CHECK (duration_ms > 0),
    ADD release_date text;
UPDATE spotify_pipeline.plays AS p
SET artist_id = k.artist_ids[1], duration_ms = k.duration_ms, release_date = k.release_date
FROM spotify_pipeline.tracks AS k
WHERE k.spotify_id = p.track_id;
DROP INDEX spotify_pipeline.uq_plays_api;
CREATE INDEX ix_plays_incomplete ON spotify_pipeline.plays (user_id)
    WHERE artist_id IS NULL OR duration_ms IS NULL OR release_date IS NULL;
COMMENT ON TABLE spotify_pipeline.plays IS 'One row per play that the API lists or an export holds. Facts: never overwritten, everything else is computed from them.';
COMMENT ON COLUMN spotify_pipeline.plays.artist_id IS 'The track''s primary artist when the play was stored; NULL until it is known.';
COMMENT ON COLUMN spotify_pipeline.plays.duration_ms IS 'The track''s length in milliseconds when the play was stored; NULL until it is known.';
COMMENT ON COLUMN spotify_pipeline.plays.release_date IS 'The album''s release date, as sent, when the play was stored; NULL until it is known.';

-- init-db puts the real function in its place.
CREATE FUNCTION spotify_pipeline.complete_play() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE ''run spotify-pipeline init-db''; END';
CREATE TRIGGER complete_play BEFORE INSERT ON spotify_pipeline.plays
    FOR EACH ROW
    WHEN (NEW.artist_id IS NULL OR NEW.duration_ms IS NULL OR NEW.release_date IS NULL)
    EXECUTE FUNCTION spotify_pipeline.complete_play();

CREATE TABLE spotify_pipeline.restamped_plays (
    user_id text NOT NULL,
    shown_at timestamptz NOT NULL,
    shown_track_id text NOT NULL,
    played_at timestamptz NOT NULL,
    track_id text NOT NULL,
    noticed_at timestamptz NOT NULL,
    CONSTRAINT pk_restamped_plays PRIMARY KEY (user_id, shown_at, shown_track_id),
    CONSTRAINT fk_restamped_plays_user_id FOREIGN KEY (user_id)
        REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE,
    CONSTRAINT fk_restamped_plays_user_id_played_at_track_id FOREIGN KEY (user_id, played_at, track_id)
        REFERENCES spotify_pipeline.plays (user_id, played_at, track_id) ON DELETE CASCADE
);
CREATE INDEX ix_restamped_plays_play ON spotify_pipeline.restamped_plays (user_id, played_at, track_id);
COMMENT ON TABLE spotify_pipeline.restamped_plays IS 'One row per other instant under which Spotify showed a stored play: one play is one play.';
COMMENT ON COLUMN spotify_pipeline.restamped_plays.user_id IS 'The person this row belongs to; deleted with them.';
COMMENT ON COLUMN spotify_pipeline.restamped_plays.shown_at IS 'played_at under which Spotify showed the play.';
COMMENT ON COLUMN spotify_pipeline.restamped_plays.shown_track_id IS 'Track id under which it was shown then.';
COMMENT ON COLUMN spotify_pipeline.restamped_plays.played_at IS 'played_at under which the play is stored.';
COMMENT ON COLUMN spotify_pipeline.restamped_plays.track_id IS 'Track id under which the play is stored.';
COMMENT ON COLUMN spotify_pipeline.restamped_plays.noticed_at IS 'When the page that showed it so was fetched.';

-- Plays that were stored twice because Spotify re-stamped them. Two ends of one recording less than
-- 30 s apart cannot both be plays: the API lists none that was heard for less. Ends 30 to 60 s apart
-- are a re-stamped pair only where a neighbour was moved in the same direction by as much (5 s more
-- or less). Within a burst of offline plays, stamped at upload within seconds, nothing is decided:
-- there two other recordings end within 5 s of the pair. The earlier one of a pair moves to
-- restamped_plays; Spotify serves that one now, so it must be known there.
CREATE TEMPORARY TABLE doubled ON COMMIT DROP AS
WITH pairs AS (
    SELECT
        later.user_id,
        later.played_at,
        later.track_id,
        earlier.played_at AS shown_at,
        earlier.track_id AS shown_track_id,
        later.played_at - earlier.played_at AS shift
    FROM spotify_pipeline.plays AS later
    JOIN spotify_pipeline.tracks AS k ON k.spotify_id = later.track_id
    JOIN spotify_pipeline.plays AS earlier
        ON earlier.user_id = later.user_id
        AND earlier.played_at >= later.played_at - interval '60 seconds'
        AND earlier.played_at < later.played_at
        AND earlier.source = 'api'
    JOIN spotify_pipeline.tracks AS e ON e.spotify_id = earlier.track_id
    WHERE later.source = 'api'
        AND (e.spotify_id = k.spotify_id OR (e.name = k.name AND e.artist_ids[1] = k.artist_ids[1]))
        AND (
            SELECT count(*)
            FROM spotify_pipeline.plays AS other
            WHERE other.user_id = later.user_id
                AND other.played_at >= earlier.played_at - interval '5 seconds'
                AND other.played_at <= later.played_at + interval '5 seconds'
                AND other.track_id NOT IN (earlier.track_id, later.track_id)
                AND later.played_at - earlier.played_at < interval '5 seconds'
        ) < 2
)
SELECT p.*
FROM pairs AS p
WHERE p.shift < interval '30 seconds'
    OR EXISTS (
        SELECT FROM pairs AS near
        WHERE near.user_id = p.user_id
            AND near.played_at <> p.played_at
            AND near.played_at BETWEEN p.played_at - interval '30 minutes' AND p.played_at + interval '30 minutes'
            AND near.shift BETWEEN p.shift - interval '5 seconds' AND p.shift + interval '5 seconds'
            AND near.track_id <> p.track_id
    );
-- One to one: a play is the twin of one other. Chains (three instants of one play) end at the last.
DELETE FROM doubled AS d USING doubled AS nearer
WHERE nearer.user_id = d.user_id AND nearer.shown_at = d.shown_at
    AND nearer.shown_track_id = d.shown_track_id
    AND (nearer.shift, nearer.played_at) < (d.shift, d.played_at);
-- The functions of the triggers are not those of this version yet; a rebuild counts again.
ALTER TABLE spotify_pipeline.plays DISABLE TRIGGER USER;
DELETE FROM spotify_pipeline.plays AS p USING doubled AS d
WHERE p.user_id = d.user_id AND p.played_at = d.shown_at AND p.track_id = d.shown_track_id;
ALTER TABLE spotify_pipeline.plays ENABLE TRIGGER USER;
UPDATE spotify_pipeline.listening_tallies AS t SET
    plays = (SELECT count(*) FROM spotify_pipeline.plays AS p WHERE p.user_id = t.user_id),
    personality_key = NULL
WHERE t.user_id IN (SELECT user_id FROM doubled);
INSERT INTO spotify_pipeline.restamped_plays
SELECT d.user_id, d.shown_at, d.shown_track_id, d.played_at, d.track_id, now()
FROM doubled AS d
JOIN spotify_pipeline.plays AS p
    ON p.user_id = d.user_id AND p.played_at = d.played_at AND p.track_id = d.track_id
ON CONFLICT DO NOTHING;

-- Coverage by the new rule. Covers that claimed to reach back to the beginning begin with the oldest
-- play that Spotify showed in them. The pages of the log (30 days) are counted again: each covers
-- from its oldest item, a clearly short or empty one 7 days, unless a known play contradicts it.
CREATE TEMPORARY TABLE covered ON COMMIT DROP AS
WITH pages AS (
    SELECT
        f.user_id,
        f.fetched_at,
        f.oldest_item_at,
        -- Whether there was a next page is not logged; Spotify offers none behind a short one.
        (f.items = 0 OR (f.items <= 40 AND f.oldest_item_at IS NOT NULL)) AND NOT EXISTS (
            SELECT FROM spotify_pipeline.plays AS p
            WHERE p.user_id = f.user_id AND p.source = 'api'
                AND p.played_at >= f.fetched_at - interval '7 days' + interval '5 minutes'
                AND p.played_at < coalesce(f.oldest_item_at, f.fetched_at)
        ) AS shows_all
    FROM spotify_pipeline.fetch_log AS f
),
spans AS (
    SELECT
        c.user_id,
        CASE
            WHEN c.covered_from > '1970-01-01T00:00:00Z' THEN c.covered_from
            ELSE (
                SELECT min(p.played_at) FROM spotify_pipeline.plays AS p
                WHERE p.user_id = c.user_id AND p.source = 'api'
            )
        END AS since,
        c.covered_to AS until
    FROM spotify_pipeline.coverage AS c
    UNION ALL
    SELECT
        user_id,
        least(oldest_item_at, CASE WHEN shows_all THEN fetched_at - interval '7 days' END),
        fetched_at
    FROM pages
),
merged AS (
    SELECT user_id, unnest(range_agg(tstzrange(since, until, '[]'))) AS span
    FROM spans
    WHERE since <= until
    GROUP BY user_id
)
SELECT user_id, lower(span) AS covered_from, upper(span) AS covered_to FROM merged;
DELETE FROM spotify_pipeline.coverage;
INSERT INTO spotify_pipeline.coverage (user_id, covered_from, covered_to)
SELECT user_id, covered_from, covered_to FROM covered;
UPDATE spotify_pipeline.listening_gaps AS g
SET closed_at = now(), closed_by = 'page'
FROM covered AS c
WHERE g.closed_at IS NULL AND c.user_id = g.user_id
    AND c.covered_from <= g.gap_start AND c.covered_to >= g.gap_end;
ALTER TABLE spotify_pipeline.coverage
    DROP CONSTRAINT ck_coverage_finite,
    ADD CONSTRAINT ck_coverage_finite CHECK (isfinite(covered_from) AND isfinite(covered_to));
COMMENT ON TABLE spotify_pipeline.coverage IS 'One row per interval in which every play that the API lists is known; merged.';
COMMENT ON COLUMN spotify_pipeline.coverage.covered_from IS 'Start of the interval: the oldest item of a page, or 7 days before a short or empty one.';
COMMENT ON COLUMN spotify_pipeline.fetch_log.overlapped IS 'True when a raw item stood on an earlier page or lay inside coverage, or when what the page covers touches coverage.';
COMMENT ON COLUMN spotify_pipeline.listening_gaps.gap_start IS 'End of the coverage before the page that did not reach it.';
COMMENT ON COLUMN spotify_pipeline.listening_gaps.gap_end IS 'Where the coverage of that page begins.';
COMMENT ON COLUMN spotify_pipeline.daily_listening.listened_ms IS 'Milliseconds heard: ms_played; where it is not known, the track''s length, or the time since the play before if that is shorter and at least 30 s.';
COMMENT ON COLUMN spotify_pipeline.daily_listening.completeness IS 'complete: every play of the day that the API lists is known; at_least: there may be more; unknown.';

-- Minutes and completeness change: all days are computed again at the next sync, or by a rebuild.
UPDATE spotify_pipeline.users AS u SET days_stale = true
WHERE EXISTS (SELECT FROM spotify_pipeline.plays AS p WHERE p.user_id = u.user_id)
    OR EXISTS (SELECT FROM spotify_pipeline.daily_listening AS d WHERE d.user_id = u.user_id);
