"""Uploads: rows of users' own listening history that an app hands over in batches."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Makes the table `history_import_batches`, and what `history_imports` needs for it."""
    op.execute(
        """
        ALTER TABLE spotify_pipeline.history_imports
            ADD COLUMN files jsonb,
            ADD COLUMN attempts int DEFAULT 0 NOT NULL,
            ADD COLUMN error_message text,
            ADD CONSTRAINT ck_history_imports_files
                CHECK ((files IS NOT NULL) = (status = 'closed')),
            ADD CONSTRAINT ck_history_imports_error
                CHECK ((error_message IS NOT NULL) = (status = 'failed'))
        """
    )
    op.execute(
        """
        CREATE UNIQUE INDEX uq_history_imports_unfinished
            ON spotify_pipeline.history_imports (user_id) WHERE status IN ('open', 'closed')
        """
    )
    op.execute(
        """
        CREATE TABLE spotify_pipeline.history_import_batches (
            import_id bigint NOT NULL,
            number int NOT NULL,
            file int NOT NULL,
            source text NOT NULL,
            row_count int NOT NULL,
            octets int NOT NULL,
            first_at timestamptz NOT NULL,
            last_at timestamptz NOT NULL,
            content jsonb NOT NULL,
            CONSTRAINT pk_history_import_batches PRIMARY KEY (import_id, number),
            CONSTRAINT fk_history_import_batches_import_id FOREIGN KEY (import_id)
                REFERENCES spotify_pipeline.history_imports (id) ON DELETE CASCADE,
            CONSTRAINT ck_history_import_batches_source
                CHECK (source IN ('extended', 'account')),
            CONSTRAINT ck_history_import_batches_counts
                CHECK (number >= 0 AND file >= 0 AND row_count > 0 AND octets > 0)
        )
        """
    )
