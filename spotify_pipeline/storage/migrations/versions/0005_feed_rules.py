"""Stands for the rules of the feed, which come with another change; changes nothing."""

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Change nothing."""
