"""Asset specs and their metadata in the UI: descriptions, columns and column lineage."""

from collections.abc import Iterable, Iterator
from datetime import timedelta

import dagster as dg

from spotify_pipeline.defs.partitions import user_partitions
from spotify_pipeline.domain.import_receipt import FATES
from spotify_pipeline.domain.model import DAYS_VERSION
from spotify_pipeline.domain.outcome import (
    DAILY_LISTENING,
    FETCHED,
    MUSIC_PERSONALITY,
    NEEDS,
    PROFILE_REVALIDATION,
    REBUILT,
    RECENTLY_PLAYED,
    TOP_ARTISTS,
    TOP_TRACKS,
)
from spotify_pipeline.domain.personality import definition
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.types import Table

OWNERS = ["team:listening"]

TABLES: dict[str, Table] = {
    RECENTLY_PLAYED: t.plays,
    **dict.fromkeys(TOP_ARTISTS, t.user_top_artists),
    **dict.fromkeys(TOP_TRACKS, t.user_top_tracks),
    DAILY_LISTENING: t.daily_listening,
    MUSIC_PERSONALITY: t.music_personality,
}

# Of the definitions that stored values follow.
CODE_VERSIONS = {
    DAILY_LISTENING: str(DAYS_VERSION),
    MUSIC_PERSONALITY: str(definition.VERSION),
}

# Some user's plays change every day: none for longer means that nothing is collected any more.
COLLECTED_WITHIN = dg.FreshnessPolicy.time_window(
    fail_window=timedelta(hours=26), warn_window=timedelta(hours=13)
)

_RANGES = {
    "short_term": "about the last 4 weeks",
    "medium_term": "about the last 6 months",
    "long_term": "about the last year",
}

DESCRIPTIONS: dict[str, str] = {
    RECENTLY_PLAYED: (
        "Every play that Spotify's API lists (the last 50 of the last 7 days), stored once and "
        "never changed."
    ),
    **{
        step: f"The user's top artists of {_RANGES[time_range]}, best first, as they stand now."
        for step, time_range in TOP_ARTISTS.items()
    },
    **{
        step: f"The user's top tracks of {_RANGES[time_range]}, best first, as they stand now."
        for step, time_range in TOP_TRACKS.items()
    },
    DAILY_LISTENING: (
        "Minutes, plays and tops per day in the user's own time zone, recomputed from all stored "
        "plays of each day that was touched."
    ),
    MUSIC_PERSONALITY: (
        "Metrics of the user's last 28 days of listening; a metric without enough data is NULL and "
        "`reasons` says why."
    ),
    PROFILE_REVALIDATION: (
        "The call to the app's webhook that invalidates its cached profile; a scheduled sync "
        "without new results makes no call."
    ),
}

_KINDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(FETCHED, ("spotify", "postgres")),
    **dict.fromkeys(REBUILT, ("pandas", "postgres")),
    PROFILE_REVALIDATION: ("webhook",),
}

_LAYERS: dict[str, str] = {
    **dict.fromkeys(FETCHED, "fetched"),
    **dict.fromkeys(REBUILT, "computed"),
    PROFILE_REVALIDATION: "delivered",
}

_SHORT, _MEDIUM, _LONG = TOP_ARTISTS

# The columns ("step.column") from which a column is computed.
_PLAYED_AT = f"{RECENTLY_PLAYED}.played_at"
_TRACK = f"{RECENTLY_PLAYED}.track_id"
_MS_PLAYED = f"{RECENTLY_PLAYED}.ms_played"
_COUNTED = (f"{RECENTLY_PLAYED}.source", _MS_PLAYED)
_STREAK = (f"{DAILY_LISTENING}.date", f"{DAILY_LISTENING}.top_artist_id")

_OF_HOURS = ("peak_hour", "time_focus", "night_share", "weekend_share", "listening_regularity")
_OF_STREAKS = (
    *("longest_streak", "longest_streak_artist_id"),
    *("current_streak", "streak_artist_id"),
)

LINEAGE: dict[str, dict[str, tuple[str, ...]]] = {
    DAILY_LISTENING: {
        "user_id": (f"{RECENTLY_PLAYED}.user_id",),
        "date": (_PLAYED_AT,),
        "minutes": (_TRACK, _MS_PLAYED),
        "listened_ms": (_TRACK, _MS_PLAYED),
        "plays": (_PLAYED_AT, *_COUNTED),
        **dict.fromkeys(
            ("unique_tracks", "unique_artists", "top_track_id", "top_artist_id"),
            (_TRACK, *_COUNTED),
        ),
        "basis": _COUNTED,
        "completeness": (_PLAYED_AT,),
    },
    MUSIC_PERSONALITY: {
        "user_id": (f"{DAILY_LISTENING}.user_id",),
        "play_count": (_PLAYED_AT, *_COUNTED),
        # The default, for the metrics that are not listed below: the tracks of the window.
        **{metric.column: (_TRACK, *_COUNTED) for metric in definition.METRICS},
        **dict.fromkeys(_OF_HOURS, (_PLAYED_AT, *_COUNTED)),
        **dict.fromkeys(_OF_STREAKS, _STREAK),
        "taste_stability": (f"{_SHORT}.spotify_id", f"{_LONG}.spotify_id"),
        "genre_diversity": (f"{_MEDIUM}.genres",),
        "mainstream_score": (f"{_MEDIUM}.popularity", f"{_MEDIUM}.rank"),
        "newness": (_TRACK, _PLAYED_AT, *_COUNTED),
    },
}


def asset_key(step: str) -> dg.AssetKey:
    """`top_artists/short_term` is AssetKey(["top_artists", "short_term"])."""
    return dg.AssetKey(step.split("/"))


def asset_specs() -> Iterator[dg.AssetSpec]:
    """One spec per step, in graph order. Skippable, because a failed step yields nothing."""
    for step, needed in NEEDS.items():
        yield dg.AssetSpec(
            asset_key(step),
            deps=[
                *map(asset_key, needed),
                *([IMPORTED_HISTORY.key] if step == DAILY_LISTENING else ()),
            ],
            skippable=True,
            description=DESCRIPTIONS[step],
            # The UI shows only the last part of a key; the group distinguishes the two short_term.
            group_name=asset_key(step).path[0] if "/" in step else "listening",
            kinds=set(_KINDS[step]),
            owners=OWNERS,
            tags={"layer": _LAYERS[step]},
            code_version=CODE_VERSIONS.get(step),
            freshness_policy=COLLECTED_WITHIN if step == RECENTLY_PLAYED else None,
            partitions_def=user_partitions,
            metadata={**table_metadata(step), **lineage_metadata(step)},
        )


def column_schema(table: Table) -> dg.TableSchema:
    """Columns with type, nullability and the comment that also stands in the database."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column.name,
                type=str(column.type),
                description=column.comment,
                constraints=dg.TableColumnConstraints(
                    nullable=bool(column.nullable), unique=bool(column.unique)
                ),
            )
            for column in table.columns
        ],
        constraints=dg.TableConstraints(other=[table.comment] if table.comment else []),
    )


IMPORTED_HISTORY = dg.AssetSpec(
    "imported_history",
    description=(
        "The listening history that Spotify hands out to a user, imported with `spotify-pipeline "
        "import-history` or handed over by the app. A partition is missing if nothing was imported "
        "for its user. Every import reports here what became of its rows:\n\n"
        + "\n".join(f"- {fate}: {meaning}." for fate, meaning in FATES.items())
    ),
    group_name="listening",
    kinds={"json", "postgres"},
    owners=OWNERS,
    tags={"layer": "fetched"},
    partitions_def=user_partitions,
    metadata={
        "dagster/table_name": t.imported_plays.fullname,
        "dagster/column_schema": column_schema(t.imported_plays),
    },
)


def table_metadata(step: str) -> dict[str, str | dg.TableSchema]:
    """The name of an asset's table, and its columns."""
    table = TABLES.get(step)
    if table is None:
        return {}
    return {"dagster/table_name": table.fullname, "dagster/column_schema": column_schema(table)}


def lineage_metadata(step: str) -> dict[str, dg.TableColumnLineage]:
    """The lineage of the step's columns; empty for assets that are fetched from Spotify.

    Part of the asset specs, and of materializations by runs of one partition, because Dagster's
    lineage page reads the latest materialization. Not of others: it is 2 KB per user and poll.
    """
    if step not in LINEAGE:
        return {}
    columns = {column: list(_deps(sources)) for column, sources in LINEAGE[step].items()}
    return {"dagster/column_lineage": dg.TableColumnLineage(columns)}


def _deps(sources: Iterable[str]) -> Iterable[dg.TableColumnDep]:
    for source in sources:
        step, _, column = source.rpartition(".")
        yield dg.TableColumnDep(dg.AssetKey(step.split("/")), column)
