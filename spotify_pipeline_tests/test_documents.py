"""The documents match the code: variables, codes, files, commands."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from spotify_pipeline.domain.error_codes import WHAT_TO_DO, ErrorCode
from spotify_pipeline.settings import Settings

ROOT = Path(__file__).parents[1]
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
README = (ROOT / "README.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()


def test_configuration_lists_every_variable_with_its_description() -> None:
    for field in Settings.model_fields.values():
        row = re.search(rf"^\| `{field.alias}` \|.*$", CONFIGURATION, re.MULTILINE)
        assert row, f"the configuration table lacks {field.alias}"
        assert field.description in row[0]


def test_configuration_lists_no_variable_that_does_not_exist() -> None:
    known = {field.alias for field in Settings.model_fields.values()}
    assert set(re.findall(r"^\| `([A-Z_]+_[A-Z_]+)` \|", CONFIGURATION, re.MULTILINE)) <= known


def test_the_runbook_says_what_to_do_for_every_error_code() -> None:
    assert set(WHAT_TO_DO) == set(ErrorCode)
    for code, what_to_do in WHAT_TO_DO.items():
        assert f"| `{code}` | {what_to_do} |" in RUNBOOK


def test_the_readme_can_be_read_in_a_few_minutes() -> None:
    assert len(README.split()) < 1_800


def test_the_index_lists_every_document() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    missing = [path.name for path in (ROOT / "docs").glob("*.md") if f"({path.name})" not in index]
    assert missing == ["README.md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_and_link_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    named = re.findall(r"`([\w./-]+\.(?:py|md|toml|yaml|sql|ini))`", text)
    linked = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    anchors = {f"#{heading.lower().replace(' ', '-')}" for heading in HEADING.findall(text)}
    missing = [
        name
        for name in (*named, *linked)
        if name not in anchors
        and not any(
            (base / name).exists() for base in (ROOT, document.parent, ROOT / "spotify_pipeline")
        )
    ]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_make_target_that_a_document_names_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z]+)", document.read_text(), re.MULTILINE)
    assert set(named) <= targets


def test_dg_and_dagster_load_the_same_definitions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    (ours,) = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    assert ours["python_module"] == {
        "module_name": project["code_location_target_module"],
        "location_name": project["code_location_name"],
    }


def test_every_test_that_the_page_of_faults_names_exists() -> None:
    tests = ROOT / "spotify_pipeline_tests"
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs" / "faults.md").read_text())
    assert len(named) > 40
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (tests / path).exists() or f"def {name}(" not in (tests / path).read_text()
    ]
    assert missing == []
