"""Homes for the tests of the embedded Postgres; whatever runs for them ends afterwards."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from spotify_pipeline.storage.embedded.client import start
from spotify_pipeline_tests.storage.embedded.processes import end_all, processes_of, until


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[Path]:
    """A home that does not exist yet. As root it is behind a directory of mode 0700: pytest's."""
    yield tmp_path / "home"
    end_all(tmp_path)


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose server ran once and was stopped: most tests copy it, which is faster."""
    home = tmp_path_factory.mktemp("made") / "home"
    with start(home) as server:
        server.url()
    until(lambda: not processes_of(home))
    (home / "postgres" / "port").unlink()
    return home


@pytest.fixture
def home(made_home: Path, tmp_path: Path) -> Iterator[Path]:
    """A home of one's own whose data directory is there."""
    subprocess.run(["cp", "-a", made_home, tmp_path / "home"], check=True)
    yield tmp_path / "home"
    end_all(tmp_path)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that all accounts can traverse."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    end_all(folder)
    shutil.rmtree(folder)
