"""What the UI shows beside an asset, generated from the steps and the tables."""

from collections.abc import Iterator

import dagster as dg
from sqlalchemy import Table

from spotify_pipeline.defs.lineage import lineage_metadata
from spotify_pipeline.defs.partitions import listeners
from spotify_pipeline.domain import steps as s
from spotify_pipeline.storage import tables as t

OWNERS = ["team:listening"]

TABLES: dict[str, Table] = {
    s.RECENTLY_PLAYED: t.plays,
    **dict.fromkeys(s.TOP_ARTISTS, t.user_top_artists),
    **dict.fromkeys(s.TOP_TRACKS, t.user_top_tracks),
    s.DAILY_LISTENING: t.daily_listening,
    s.MUSIC_PERSONALITY: t.music_personality,
    s.PROFILE_REVALIDATION: t.sync_state,
}

_RANGES = {
    "short_term": "about the last 4 weeks",
    "medium_term": "about the last 6 months",
    "long_term": "about the last year",
}

DESCRIPTIONS: dict[str, str] = {
    s.RECENTLY_PLAYED: (
        "Every play that Spotify's API lists (the last 50 of the last 7 days), stored once and "
        "never changed."
    ),
    **{
        step: f"The user's top artists of {_RANGES[time_range]}, best first, as they stand now."
        for step, time_range in s.TOP_ARTISTS.items()
    },
    **{
        step: f"The user's top tracks of {_RANGES[time_range]}, best first, as they stand now."
        for step, time_range in s.TOP_TRACKS.items()
    },
    s.DAILY_LISTENING: (
        "Minutes, plays and tops per day in the user's own time zone, recomputed from all stored "
        "plays of each day that was touched."
    ),
    s.MUSIC_PERSONALITY: (
        "What the last 28 days say about the listener; a metric without enough data is NULL and "
        "`reasons` says why."
    ),
    s.PROFILE_REVALIDATION: (
        "The call that tells the app's cache about new results; a scheduled sync without any makes "
        "none."
    ),
}

_KINDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(s.FETCHED, ("spotify", "postgres")),
    **dict.fromkeys(s.REBUILT, ("pandas", "postgres")),
    s.PROFILE_REVALIDATION: ("webhook",),
}


def asset_key(step: str) -> dg.AssetKey:
    """`top_artists/short_term` is AssetKey(["top_artists", "short_term"])."""
    return dg.AssetKey(step.split("/"))


def asset_specs() -> Iterator[dg.AssetSpec]:
    """One spec per step, in graph order. Skippable: a step that failed yields nothing."""
    for step, needed in s.NEEDS.items():
        table = TABLES[step]
        yield dg.AssetSpec(
            asset_key(step),
            deps=[asset_key(other) for other in needed],
            skippable=True,
            description=DESCRIPTIONS[step],
            # The UI shows the last part of a key only: the group tells the two short_term apart.
            group_name=asset_key(step).path[0] if "/" in step else "listening",
            kinds=set(_KINDS[step]),
            owners=OWNERS,
            partitions_def=listeners,
            metadata={
                "dagster/table_name": table.fullname,
                "dagster/column_schema": column_schema(table),
                **lineage_metadata(step),
            },
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
