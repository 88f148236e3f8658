"""Dagster's storage: its own Postgres classes, with our database URL and a connection pool.

Configured in dagster.yaml. The URL never enters the instance's configuration, which Dagster passes
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

# By default Dagster opens a connection for every group of statements: about 15 ms per event.
POOL_OVERFLOW = 20


class PipelineDagsterStorage(DagsterPostgresStorage):
    """Runs, events and schedules in DAGSTER_PG_URL, or in database `dagster` beside our own."""

    def __init__(self, pool_recycle: int, inst_data: ConfigurableClassData | None = None) -> None:
        # Every Dagster process creates this storage, but not every one loads definitions.py.
        install()
        # dagster-postgres needs psycopg2; SQLAlchemy 2.1 would choose psycopg 3 for postgresql://.
        settings = load_settings()
        is_complete = check_dagster_database(settings)
        url = dagster_url(settings).set(drivername="postgresql+psycopg2")
        if url.password:
            remember(str(url.password))
        super().__init__(
            url.render_as_string(hide_password=False),
            # Each of its three parts would connect twice to look for its tables.
            should_autocreate_tables=not is_complete,
            inst_data=inst_data,
        )
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage.optimize_for_webserver(
                statement_timeout=0, pool_recycle=pool_recycle, max_overflow=POOL_OVERFLOW
            )
        # Cached: Dagster calls it at every materialization, inside a transaction. The pool keeps
        # one connection, so each call would open another.
        events = self._event_log_storage
        events.has_table = cache(events.has_table)  # type: ignore[method-assign]

    @classmethod
    def config_type(cls) -> Any:
        """Only pool_recycle: the age in seconds at which a pooled connection is replaced."""
        return {"pool_recycle": Field(IntSource, is_required=False, default_value=1800)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> "PipelineDagsterStorage":
        """Build from the (empty) block in dagster.yaml."""
        return cls(pool_recycle=config_value["pool_recycle"], inst_data=inst_data)


@event.listens_for(Pool, "connect")
def _prepare_session(connection: Any, _record: object) -> None:
    """Applies our session settings, UTC among them: Dagster reads timestamps without a zone.

    Registered for every pool of the process, because Dagster creates its tables on other engines;
    only Dagster uses psycopg2 here. Registered at import: later, connecting threads make it a race.
    """
    if type(connection).__module__.partition(".")[0] == "psycopg2":
        apply_settings(connection, PORTABLE)
        connection.commit()
