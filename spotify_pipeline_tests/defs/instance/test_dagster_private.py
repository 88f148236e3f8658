"""Private names of Dagster: imported in three files, checked against the installed version."""

import re
from importlib.metadata import version
from pathlib import Path

import spotify_pipeline
from spotify_pipeline.defs.instance import (
    dagster_private,
    dagster_private_processes,
    dagster_private_tables,
)

MODULES = (dagster_private, dagster_private_processes, dagster_private_tables)
PACKAGE = Path(spotify_pipeline.__file__).parent
PRIVATE_IMPORT = re.compile(
    r"^\s*(?:from|import) (?:dagster\w*(?:\.\w+)*\._|dagster_shared|dagster_postgres\.)",
    re.MULTILINE,
)


def test_three_files_import_all_private_modules_of_dagster() -> None:
    importing = {
        path
        for path in PACKAGE.rglob("*.py")
        if PRIVATE_IMPORT.search(path.read_text(encoding="utf-8"))
    }
    assert importing == {Path(str(module.__file__)) for module in MODULES}


def test_private_names_were_checked_against_the_installed_version_of_dagster() -> None:
    assert version("dagster") == dagster_private.CHECKED_VERSION
    assert dagster_private.CHECKED_VERSION in str(dagster_private.__doc__)
