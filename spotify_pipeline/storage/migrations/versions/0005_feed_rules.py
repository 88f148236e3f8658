"""Plays keep the facts of their track, coverage 7 days, and re-stamped plays count once."""

from pathlib import Path

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Change the tables, correct what the old rules got wrong, and mark all days stale."""
    script = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    op.get_bind().exec_driver_sql(script, execution_options={"no_parameters": True})
