"""The files of a production set are valid, and name what exists."""

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from spotify_pipeline.cli.program import program
from spotify_pipeline.domain.sealing import Keyring
from spotify_pipeline.settings import load_settings, variables

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
EXAMPLE = (ROOT / ".env.example").read_text()
OURS = {name: secret for name, secret in COMPOSE["services"].items() if "read_only" in secret}


def test_the_compose_file_follows_the_specification() -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, ROOT / "compose.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_passes_its_linter() -> None:
    if not (BIN / "hadolint").exists():
        pytest.skip("hadolint has no build for this machine")
    done = subprocess.run([BIN / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_example_of_an_environment_names_every_variable_and_loads() -> None:
    named = set(re.findall(r"^#?([A-Z0-9_]+)=", EXAMPLE, re.MULTILINE))
    used = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "compose.yaml").read_text()))
    assert named == set(variables()) | used
    every_line = re.findall(r"^#?([A-Z0-9_]+)=(.*)$", EXAMPLE, re.MULTILINE)
    assert load_settings(dict(every_line)) == load_settings({})


@pytest.mark.parametrize("name", [name for name in OURS if name != "worker"])
def test_every_service_runs_a_command_that_exists_with_options_it_has(name: str) -> None:
    group, arguments = program, list(OURS[name]["command"])
    context = click.Context(group)
    command: click.Command | None = group
    while isinstance(command, click.Group):
        command = command.get_command(context, arguments.pop(0))
    assert command is not None
    command.make_context(name, arguments)


def test_every_service_is_unprivileged_watched_and_waits_for_what_it_needs() -> None:
    for name, service in OURS.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "healthcheck" in service, name
        for needed, how in service["depends_on"].items():
            assert how["condition"] in ("service_healthy", "service_completed_successfully")
            assert needed in COMPOSE["services"]
        for secret in service["secrets"]:
            assert secret in COMPOSE["secrets"]
    files = {one["file"] for one in COMPOSE["secrets"].values()}
    assert all(f'"./{file}"' not in str(COMPOSE) for file in files)


def test_the_secrets_are_made_once_and_can_be_used(tmp_path: Path) -> None:
    script = shutil.copy(ROOT / "deploy" / "secrets.sh", tmp_path)
    subprocess.run(["sh", script], check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()} == set(made)
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert Keyring.parse(made["token_keys"]).key_ids
    assert f":{made['postgres_password']}@postgres:" in made["database_url"]
    subprocess.run(["sh", script], check=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made


def test_the_build_context_has_the_copied_files_and_no_secrets() -> None:
    sent = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    names = {name for line in copied for name in line.split()}
    assert names <= set(sent)
    assert all((ROOT / name).exists() for name in names)
    assert not {"deploy", ".env"} & set(sent)
