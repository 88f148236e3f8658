"""Every table, one name each: `from spotify_pipeline.storage import tables as t`, then `t.plays`.

These definitions are the one source of the schema; new databases are made from them, and a
test proves that an upgraded one equals a new one.
"""

from spotify_pipeline.storage.tables.base import SCHEMA, metadata, views
from spotify_pipeline.storage.tables.imports import (
    history_import_batches,
    history_import_files,
    history_imports,
    imported_plays,
    imported_tracks,
)
from spotify_pipeline.storage.tables.listening import (
    artists,
    coverage,
    daily_listening,
    fetch_log,
    listening_gaps,
    listening_tallies,
    listens,
    plays,
    restamped_plays,
    tracks,
)
from spotify_pipeline.storage.tables.personality import (
    music_personality,
    music_personality_history,
)
from spotify_pipeline.storage.tables.top_lists import (
    top_artists_history,
    top_list_artists,
    top_list_tracks,
    top_list_versions,
    top_lists,
    top_tracks_history,
    user_top_artists,
    user_top_tracks,
)
from spotify_pipeline.storage.tables.users import (
    day_starts,
    forgotten,
    profiles,
    sealing_key,
    time_zones,
    user_tokens,
    users,
)
from spotify_pipeline.storage.tables.work import (
    EVENTS,
    alerts,
    api_budget,
    request_locks,
    settings,
    sync_requests,
    sync_run_chunks,
    sync_run_users,
    sync_state,
)
