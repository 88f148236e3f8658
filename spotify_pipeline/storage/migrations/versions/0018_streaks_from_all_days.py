"""Drops the summary of streaks: they are computed from all stored days."""

from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Drops the columns of the summary, and the rules about them."""
    op.execute(
        """
        ALTER TABLE spotify_pipeline.listening_tallies
            DROP CONSTRAINT ck_listening_tallies_longest,
            DROP CONSTRAINT ck_listening_tallies_counts,
            DROP COLUMN streaks_before,
            DROP COLUMN streak_days,
            DROP COLUMN longest_streak,
            DROP COLUMN longest_streak_artist_id,
            ADD CONSTRAINT ck_listening_tallies_counts CHECK (plays >= 0 AND days >= 0)
        """
    )
