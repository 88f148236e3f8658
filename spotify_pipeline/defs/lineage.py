"""Which columns each column of a rebuilt asset is computed from."""

from collections.abc import Iterable

import dagster as dg

from spotify_pipeline.domain import steps as s
from spotify_pipeline.domain.personality.definition import METRICS

_SHORT, _MEDIUM, _LONG = s.TOP_ARTISTS

# "step.column" of what a column is computed from.
_PLAYED_AT = f"{s.RECENTLY_PLAYED}.played_at"
_TRACK = f"{s.RECENTLY_PLAYED}.track_id"
_MS_PLAYED = f"{s.RECENTLY_PLAYED}.ms_played"
_COUNTED = (f"{s.RECENTLY_PLAYED}.source", _MS_PLAYED)
_STREAK = (f"{s.DAILY_LISTENING}.date", f"{s.DAILY_LISTENING}.top_artist_id")

_OF_HOURS = ("peak_hour", "time_focus", "night_share", "weekend_share", "listening_regularity")
_OF_STREAKS = (
    *("longest_streak", "longest_streak_artist_id"),
    *("current_streak", "streak_artist_id"),
)

LINEAGE: dict[str, dict[str, tuple[str, ...]]] = {
    s.DAILY_LISTENING: {
        "user_id": (f"{s.RECENTLY_PLAYED}.user_id",),
        "date": (_PLAYED_AT,),
        "minutes": (_TRACK, _MS_PLAYED),
        "listened_ms": (_TRACK, _MS_PLAYED),
        "plays": (_PLAYED_AT, *_COUNTED),
        **dict.fromkeys(
            ("unique_tracks", "unique_artists", "top_track_id", "top_artist_id"),
            (_TRACK, *_COUNTED),
        ),
        "completeness": (_PLAYED_AT,),
    },
    s.MUSIC_PERSONALITY: {
        "user_id": (f"{s.DAILY_LISTENING}.user_id",),
        "play_count": (_PLAYED_AT, *_COUNTED),
        # What is not said below is computed from the tracks of the window.
        **{metric.column: (_TRACK, *_COUNTED) for metric in METRICS},
        **dict.fromkeys(_OF_HOURS, (_PLAYED_AT, *_COUNTED)),
        **dict.fromkeys(_OF_STREAKS, _STREAK),
        "taste_stability": (f"{_SHORT}.spotify_id", f"{_LONG}.spotify_id"),
        "genre_diversity": (f"{_MEDIUM}.genres",),
        "mainstream_score": (f"{_MEDIUM}.popularity", f"{_MEDIUM}.rank"),
        "newness": (_TRACK, _PLAYED_AT, *_COUNTED),
    },
}


def lineage_metadata(step: str) -> dict[str, dg.TableColumnLineage]:
    """The lineage of the step's columns; empty for what comes from Spotify.

    It stands in the definition, and in materializations by runs of one partition, because Dagster's
    pages that draw it read the latest one. Two kilobytes are too much for every poll of everybody.
    """
    if step not in LINEAGE:
        return {}
    columns = {column: list(_deps(sources)) for column, sources in LINEAGE[step].items()}
    return {"dagster/column_lineage": dg.TableColumnLineage(columns)}


def _deps(sources: Iterable[str]) -> Iterable[dg.TableColumnDep]:
    for source in sources:
        step, _, column = source.rpartition(".")
        yield dg.TableColumnDep(dg.AssetKey(step.split("/")), column)
