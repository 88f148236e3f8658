-- Fills in, from the catalogue, the facts of the track that a play is stored without. The play keeps
-- them: a later change of the catalogue does not change past days.
CREATE OR REPLACE FUNCTION complete_play() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, spotify_pipeline, pg_temp
AS $$
BEGIN
    SELECT
        coalesce(NEW.artist_id, k.artist_ids[1]),
        coalesce(NEW.duration_ms, k.duration_ms),
        coalesce(NEW.release_date, k.release_date)
    INTO NEW.artist_id, NEW.duration_ms, NEW.release_date
    FROM (SELECT NEW.track_id AS track_id) AS n
    LEFT JOIN tracks AS k ON k.spotify_id = n.track_id;
    RETURN NEW;
END
$$;
