"""When an upload was closed, and an alert for those that no run imports."""

from alembic import op

revision = "0017"
down_revision = "0014"


def upgrade() -> None:
    """Adds the column, and the class of alerts."""
    op.execute("ALTER TABLE spotify_pipeline.history_imports ADD COLUMN closed_at timestamptz")
    op.execute(
        "UPDATE spotify_pipeline.history_imports SET closed_at = started_at WHERE status = 'closed'"
    )
    op.execute(
        """
        ALTER TABLE spotify_pipeline.history_imports
            DROP CONSTRAINT ck_history_imports_files,
            ADD CONSTRAINT ck_history_imports_files CHECK (
                num_nonnulls(files, closed_at) = CASE status WHEN 'closed' THEN 2 ELSE 0 END
            )
        """
    )
    op.execute(
        """
        ALTER TABLE spotify_pipeline.alerts
            DROP CONSTRAINT ck_alerts_event,
            ADD CONSTRAINT ck_alerts_event CHECK (event IN (
                'run_failed', 'account_blocked', 'outage', 'users_to_reconnect', 'gaps_opened',
                'requests_waiting', 'uploads_waiting'
            ))
        """
    )
