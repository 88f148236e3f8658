"""Dagster's storage: its own Postgres classes, with the address resolved by us and pooled.

Named in dagster.yaml. The address never enters the instance's configuration, which Dagster hands
to child processes on their command lines.
"""

from functools import cache
from typing import Any

from dagster import Field, IntSource
from dagster_postgres import DagsterPostgresStorage
from sqlalchemy import event
from sqlalchemy.pool import Pool

from spotify_pipeline.defs.instance.dagster_private import ConfigurableClassData
from spotify_pipeline.defs.instance.database import check_dagster_database
from spotify_pipeline.defs.instance.redaction import install
from spotify_pipeline.redaction import remember
from spotify_pipeline.settings import load_settings
from spotify_pipeline.storage.postgres.database import dagster_url
from spotify_pipeline.storage.postgres.engine import PORTABLE, apply_settings

# Dagster's default opens a new connection for every group of statements: about 15 ms an event.
POOL_OVERFLOW = 20


class PipelineDagsterStorage(DagsterPostgresStorage):
    """Runs, events and schedules in DAGSTER_PG_URL, or in database `dagster` beside our own."""

    def __init__(self, pool_recycle: int, inst_data: ConfigurableClassData | None = None) -> None:
        # Every process of Dagster's makes one of these; not all of them load our definitions.
        install()
        # dagster-postgres needs psycopg2; SQLAlchemy 2.1 would choose psycopg 3 for postgresql://.
        settings = load_settings()
        check_dagster_database(settings)
        url = dagster_url(settings).set(drivername="postgresql+psycopg2")
        if url.password:
            remember(str(url.password))
        super().__init__(url.render_as_string(hide_password=False), inst_data=inst_data)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage.optimize_for_webserver(
                statement_timeout=0, pool_recycle=pool_recycle, max_overflow=POOL_OVERFLOW
            )
        # Asked at every materialization, inside a transaction: the pool keeps one connection, so
        # each answer would cost a new one.
        events = self._event_log_storage
        events.has_table = cache(events.has_table)  # type: ignore[method-assign]

    @classmethod
    def config_type(cls) -> Any:
        """Only the age in seconds at which a pooled connection is replaced."""
        return {"pool_recycle": Field(IntSource, is_required=False, default_value=1800)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> "PipelineDagsterStorage":
        """Build from the (empty) block in dagster.yaml."""
        return cls(pool_recycle=config_value["pool_recycle"], inst_data=inst_data)


@event.listens_for(Pool, "connect")
def _prepare_session(connection: Any, _record: object) -> None:
    """Sets what Dagster relies on, among it UTC: it reads the database's clock without a zone.

    For every pool of the process, because Dagster makes its tables on engines of its own; only
    Dagster uses psycopg2 here. Listening while threads connect is a race, so this is done once.
    """
    if type(connection).__module__.partition(".")[0] == "psycopg2":
        apply_settings(connection, PORTABLE)
        connection.commit()
