"""Runs the revisions on the connection that init-db hands over, inside its transaction."""

from alembic import context

from spotify_pipeline.storage.tables import SCHEMA, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table="alembic_version",
    version_table_schema=SCHEMA,
)
context.run_migrations()
