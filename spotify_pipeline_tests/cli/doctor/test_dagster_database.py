"""Dagster's tables never come among those of an app, and are fine in a schema of their own."""

import pytest
from sqlalchemy import inspect, text

from spotify_pipeline.storage.postgres.engine import PORTABLE, make_engine
from spotify_pipeline_tests.cli.conftest import only_line, with_password
from spotify_pipeline_tests.storage.postgres.test_foreign_settings import HOSTILE, set_for_all

REMEDY = "?options=-csearch_path%3Ddagster"
APPS = ("CREATE TABLE public.alembic_version (version_num varchar(32) PRIMARY KEY)",)
MIGRATED = (*APPS, "INSERT INTO public.alembic_version VALUES ('a1b2c3d4e5f6')")


@pytest.fixture
def of_the_app(engine):
    """The app's own database, with our schema: runs statements there, and shows its tables."""

    def tables(*statements, schema="public"):
        with engine.begin() as conn:
            for statement in statements:
                conn.execute(text(statement))
        return set(inspect(engine).get_table_names(schema=schema))

    return tables


def in_schema(url, schema):
    """The address with its search_path: the tests' user has a schema of its name, ours."""
    return url.update_query_dict({"options": f"-csearch_path={schema}"})


@pytest.mark.parametrize(
    "statements",
    [
        MIGRATED,
        (*MIGRATED, "CREATE TABLE public.customers (id int)"),
        ("CREATE TABLE public.customers (id int)",),
        # A schema of its own comes first, and the app's version table is found behind it.
        (*MIGRATED, "CREATE SCHEMA spotify_pipeline_own"),
    ],
)
def test_tables_of_an_app_are_found_before_any_is_made(
    run, environ, database, listener, of_the_app, statements
):
    before = of_the_app(*statements)
    listener("mira")
    listener("noa")
    own = "CREATE SCHEMA spotify_pipeline_own" in statements
    url = in_schema(database, "spotify_pipeline_own,public" if own else "public")
    environ.setenv("DAGSTER_PG_URL", with_password(url))
    for arguments in (("sync", "mira"), ("sync", "mira", "noa")):
        refused = run(*arguments)
        assert refused.exit_code == 2, refused.output
        assert REMEDY in only_line(refused)
    assert of_the_app() == before
    assert of_the_app(schema="spotify_pipeline_own") == set()
    result = run("doctor")
    assert result.exit_code == 1
    assert "problem  dagster storage: DAGSTER_PG_URL names a place with tables" in result.stdout


def test_dagster_tables_of_an_earlier_version_in_the_app_schema_are_detected(
    run, environ, database, of_the_app
):
    of_the_app(*MIGRATED, "CREATE TABLE public.customers (id int)", "CREATE TABLE public.runs ()")
    environ.setenv("DAGSTER_PG_URL", with_password(in_schema(database, "public")))
    assert "and 1 of Dagster's that an earlier start left there" in run("doctor").stdout


def test_a_schema_of_its_own_in_the_apps_database_works(
    run, environ, database, listener, of_the_app
):
    before = of_the_app(*MIGRATED)
    listener("mira")
    environ.setenv(
        "DAGSTER_PG_URL",
        with_password(database) + REMEDY.replace("?", "&" if database.query else "?"),
    )
    missing = run("sync", "mira")
    assert missing.exit_code == 2
    assert "no schema of its search_path exists" in only_line(missing)
    of_the_app("CREATE SCHEMA dagster")
    # A foreign default for all roles does not matter: the address says where.
    set_for_all(database, HOSTILE)
    for _ in range(2):
        synced = run("sync", "mira")
        assert synced.exit_code == 0, synced.output
    assert of_the_app() == before
    assert {"runs", "event_logs", "alembic_version"} <= of_the_app(schema="dagster")
    assert "its tables are there" in run("doctor").stdout


def test_an_existing_dagster_database_may_gain_other_tables(run, environ, empty_database, listener):
    environ.setenv("DAGSTER_PG_URL", with_password(empty_database))
    listener("mira")
    assert run("sync", "mira").exit_code == 0
    engine = make_engine(empty_database, settings=PORTABLE)
    with engine.begin() as conn:
        conn.execute(text("CREATE TABLE public.customers (id int)"))
    engine.dispose()
    again = run("sync", "mira")
    assert again.exit_code == 0, again.output
