"""Environment variables of libpq that are meant for other servers do not affect this one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from spotify_pipeline.storage.embedded.client import start
from spotify_pipeline.storage.postgres.engine import make_engine

# Each alone makes libpq fail or connect elsewhere, unless the URL overrides it.
HOSTILE = {
    "PGHOSTADDR": "192.0.2.1",
    "PGSERVICE": "no_such_service",
    "PGOPTIONS": "-c no_such_setting=1",
    "PGSSLMODE": "verify-full",
    "PGSSLROOTCERT": "/no/such/file",
    "PGSSLNEGOTIATION": "direct",
    "PGSSLCERTMODE": "require",
    "PGSSLMINPROTOCOLVERSION": "TLSv9",
    "PGREQUIRESSL": "1",
    "PGREQUIREAUTH": "none",
    "PGREQUIREPEER": "nobody",
    "PGCHANNELBINDING": "require",
    "PGGSSENCMODE": "require",
    "PGTARGETSESSIONATTRS": "standby",
    "PGLOADBALANCEHOSTS": "no_such_way",
    "PGMINPROTOCOLVERSION": "3.9",
    "PGMAXPROTOCOLVERSION": "no_such_version",
    "PGCONNECT_TIMEOUT": "soon",
    "PGCLIENTENCODING": "LATIN1",
    "PGHOST": "192.0.2.1",
    "PGPORT": "1",
    "PGUSER": "somebody",
    "PGPASSWORD": "something",
    "PGDATABASE": "nowhere",
    "PGPASSFILE": "/no/such/file",
    "PGDATESTYLE": "German",
    "PGTZ": "Asia/Tokyo",
}


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose server runs as long as these tests do."""
    home = tmp_path_factory.mktemp("shared") / "home"
    with start(home):
        yield home


@pytest.mark.parametrize("names", [*([name] for name in HOSTILE), list(HOSTILE)], ids="+".join)
def test_environment_variables_for_other_servers_are_ignored(
    shared_home: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    for name in names:
        monkeypatch.setenv(name, HOSTILE[name])
    with start(shared_home) as server:
        for database in ("spotify_pipeline", "dagster"):
            url = server.url(database)
            dagsters = create_engine(url.set(drivername="postgresql+psycopg2"))
            for engine in (make_engine(url), dagsters):
                with engine.connect() as conn:
                    found = conn.execute(text("SELECT current_user, current_database()")).one()
                    assert found == ("spotify_pipeline", database)
                engine.dispose()
