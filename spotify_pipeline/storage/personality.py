"""Music personality: one row per user, as of the last time it changed."""

from datetime import datetime

import pandas as pd
from sqlalchemy import Connection

from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.frames import records
from spotify_pipeline.storage.upsert import Written, upsert_changed


def write_personality(conn: Connection, rows: pd.DataFrame, computed_at: datetime) -> Written:
    """Store the personality of these users; computed_at moves only with another column."""
    return upsert_changed(
        conn,
        t.music_personality,
        records(rows.assign(computed_at=computed_at)),
        stamps=("computed_at",),
    )
