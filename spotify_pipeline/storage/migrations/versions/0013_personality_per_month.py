"""The music personality per month, and how far it is up to date."""

from alembic import op

revision = "0013"
down_revision = "0011"


def upgrade() -> None:
    """Makes the table `music_personality_history` and adds `listening_tallies.months_before`."""
    op.execute(
        """
        CREATE TABLE spotify_pipeline.music_personality_history (
            user_id text NOT NULL,
            month date NOT NULL,
            window_start date NOT NULL,
            window_end date NOT NULL,
            play_count integer NOT NULL,
            artist_diversity double precision,
            effective_artists double precision,
            artist_concentration double precision,
            unique_artists integer,
            repeat_share double precision,
            repeat_rate double precision,
            artist_discovery_rate double precision,
            peak_hour double precision,
            time_focus double precision,
            night_share double precision,
            weekend_share double precision,
            listening_regularity double precision,
            newness double precision,
            reasons jsonb NOT NULL,
            definition_version smallint NOT NULL,
            computed_at timestamptz NOT NULL,
            CONSTRAINT pk_music_personality_history PRIMARY KEY (user_id, month),
            CONSTRAINT fk_music_personality_history_user_id FOREIGN KEY (user_id)
                REFERENCES spotify_pipeline.users (user_id) ON DELETE CASCADE,
            CONSTRAINT ck_music_personality_history_month CHECK (extract(day FROM month) = 1),
            CONSTRAINT ck_music_personality_history_window
                CHECK (window_start BETWEEN month AND window_end),
            CONSTRAINT ck_music_personality_history_counts
                CHECK (play_count >= 0 AND unique_artists >= 0),
            CONSTRAINT ck_music_personality_history_effective_artists
                CHECK (effective_artists >= 1 AND effective_artists < 'Infinity'),
            CONSTRAINT ck_music_personality_history_peak_hour
                CHECK (peak_hour >= 0 AND peak_hour < 24),
            CONSTRAINT ck_music_personality_history_reasons
                CHECK (jsonb_typeof(reasons) = 'object')
        )
        """
    )
    for share in _SHARES:
        op.execute(
            "ALTER TABLE spotify_pipeline.music_personality_history "
            f"ADD CONSTRAINT ck_music_personality_history_{share} CHECK ({share} BETWEEN 0 AND 1)"
        )
    op.execute("ALTER TABLE spotify_pipeline.listening_tallies ADD COLUMN months_before date")


_SHARES = (
    "artist_diversity",
    "artist_concentration",
    "repeat_share",
    "repeat_rate",
    "artist_discovery_rate",
    "time_focus",
    "night_share",
    "weekend_share",
    "listening_regularity",
    "newness",
)
