"""Dagster's tables, which are private: dagster_private.py names the version they were checked with.

A file of their own with the states of backfills, because these import alembic and 36 modules of
Dagster, which the code location must not load.
"""

from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    AssetKeyTable,
    SqlEventLogStorageMetadata,
    SqlEventLogStorageTable,
)
from dagster._core.storage.runs.schema import (
    BulkActionsTable,
    RunsTable,
    RunStorageSqlMetadata,
)
from dagster._core.storage.schedules.schema import JobTickTable, ScheduleStorageSqlMetadata

__all__ = [
    "BULK_ACTION_TERMINAL_STATUSES",
    "AssetCheckExecutionsTable",
    "AssetEventTagsTable",
    "AssetKeyTable",
    "BulkActionsTable",
    "JobTickTable",
    "RunStorageSqlMetadata",
    "RunsTable",
    "ScheduleStorageSqlMetadata",
    "SqlEventLogStorageMetadata",
    "SqlEventLogStorageTable",
]
