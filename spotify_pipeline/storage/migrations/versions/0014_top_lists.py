"""Top lists: when a list was received stands once, and a list as it stood is one row."""

from pathlib import Path

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Runs the script beside this module."""
    op.execute(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
