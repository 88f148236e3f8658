"""Which private modules of Dagster we use: an upgrade of Dagster has to look at these."""

import ast
from importlib.metadata import version
from pathlib import Path

import spotify_pipeline

PACKAGE = Path(spotify_pipeline.__file__).parent
# With this version every use was checked, by reading Dagster's source.
CHECKED_AGAINST = "1.13.27"
# File in defs/instance: the private modules it imports.
PRIVATE = {
    "storage.py": {"dagster._serdes"},
    "launcher.py": {"dagster._core.launcher", "dagster._core.storage.tags"},
    "database.py": {
        "dagster._core.storage.event_log.schema",
        "dagster._core.storage.runs.schema",
        "dagster._core.storage.schedules.schema",
    },
    "event_batches.py": {"dagster._core.events"},
    "redaction.py": {"dagster_shared.error"},
    "purge.py": {
        "dagster._core.execution.backfill",
        "dagster._core.scheduler.instigation",
        "dagster._core.storage.dagster_run",
        "dagster._core.storage.event_log.schema",
        "dagster._core.storage.event_log.sql_event_log",
        "dagster._core.storage.runs.schema",
        "dagster._core.storage.schedules.schema",
        "dagster._core.storage.tags",
    },
}


def private_imports(path: Path) -> set[str]:
    """The private modules of Dagster that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    return {
        module
        for module in modules
        if module.startswith("dagster") and ("._" in module or "dagster_shared" in module)
    }


def test_private_modules_of_dagster_are_imported_in_one_folder_only() -> None:
    found = {
        path.relative_to(PACKAGE): modules
        for path in PACKAGE.rglob("*.py")
        if (modules := private_imports(path))
    }
    assert found == {Path("defs/instance") / name: modules for name, modules in PRIVATE.items()}


def test_private_modules_of_dagster_were_checked_against_the_installed_version() -> None:
    assert version("dagster") == CHECKED_AGAINST
