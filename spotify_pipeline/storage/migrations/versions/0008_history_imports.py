"""Imports of users' own listening history: their rows, receipts, and what days rest on."""

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Runs the script beside this module."""
    op.execute(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
