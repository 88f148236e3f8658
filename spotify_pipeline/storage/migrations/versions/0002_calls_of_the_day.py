"""Counts the day's calls in slots, where a second GCRA bucket would give away half of them."""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = (
    "ALTER TABLE spotify_pipeline.api_budget ALTER day_tat DROP DEFAULT",
    "ALTER TABLE spotify_pipeline.api_budget ALTER day_tat TYPE bigint USING 0",
    # PostgreSQL 18 names the constraint after the column: it is made anew under the new name.
    "ALTER TABLE spotify_pipeline.api_budget ALTER day_tat DROP NOT NULL",
    "ALTER TABLE spotify_pipeline.api_budget RENAME day_tat TO day_slot",
    "ALTER TABLE spotify_pipeline.api_budget ALTER day_slot SET NOT NULL",
    "ALTER TABLE spotify_pipeline.api_budget ALTER day_slot SET DEFAULT 0",
    "ALTER TABLE spotify_pipeline.api_budget ADD day_calls integer[] NOT NULL DEFAULT '{}'",
    "COMMENT ON COLUMN spotify_pipeline.api_budget.day_slot IS"
    " 'The quarter of an hour, counted from 1970, that the first element of day_calls belongs to.'",
    "COMMENT ON COLUMN spotify_pipeline.api_budget.day_calls IS"
    " 'Calls per quarter of an hour of the last 24 hours, newest first.'",
)


def upgrade() -> None:
    """Change the column; what is blocked stays blocked, and the day is counted from now on."""
    for statement in STATEMENTS:
        op.execute(statement)
