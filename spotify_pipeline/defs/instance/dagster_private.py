"""The private names of Dagster that we use, but for its tables. Checked against Dagster 1.13.27.

Dagster may change these in any release. After an upgrade read each of them in Dagster's source, as
well as the attributes patched or read in storage.py, redaction.py and webserver.py, and then set
CHECKED_VERSION.

Every process that loads the code location imports this file. What the purge alone needs is in
dagster_private_tables.py: it imports alembic, and much of Dagster.
"""

from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData as TargetMaterialization,
)
from dagster._core.events import StepMaterializationData
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.storage.dagster_run import FINISHED_STATUSES, NOT_FINISHED_STATUSES
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    GRPC_INFO_TAG,
    PARTITION_NAME_TAG,
)
from dagster._serdes import ConfigurableClassData
from dagster_shared.error import SerializableErrorInfo

CHECKED_VERSION = "1.13.27"

__all__ = [
    "ASSET_PARTITION_RANGE_END_TAG",
    "ASSET_PARTITION_RANGE_START_TAG",
    "CHECKED_VERSION",
    "FINISHED_STATUSES",
    "GRPC_INFO_TAG",
    "NOT_FINISHED_STATUSES",
    "PARTITION_NAME_TAG",
    "CheckRunHealthResult",
    "ConfigurableClassData",
    "DefaultRunLauncher",
    "SerializableErrorInfo",
    "StepMaterializationData",
    "TargetMaterialization",
    "TickStatus",
    "WorkerStatus",
]
