"""The files of a production set are valid, and name what exists."""

import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import click
import pytest
import requests
import yaml
from sqlalchemy import URL, Engine, create_engine, make_url, text

from spotify_pipeline.cli.local.dagster_processes import free_port
from spotify_pipeline.cli.program import program
from spotify_pipeline.domain.sealing import Keyring
from spotify_pipeline.settings import load_settings, variables, webhook_key
from spotify_pipeline.storage.postgres.roles import CONTRACT, rights

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
    assert webhook_key(made["revalidate_secret"])
    assert len(made["web_secret"]) >= 32
    assert make_url(made["web_database_url"]).username == "spotify_web"
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


def test_the_page_shares_no_network_with_what_has_no_sign_in() -> None:
    others = {
        name for name, one in COMPOSE["services"].items() if "page" in one.get("networks", ())
    }
    assert others == {"web", "postgres"}
    assert OURS["web"]["networks"] == ["page"]
    assert not {"database_url", "token_keys"} & set(OURS["web"]["secrets"])


def test_every_file_that_a_service_mounts_exists_and_grafana_looks_where_its_dashboard_is() -> None:
    mounts = dict(
        volume.removeprefix("./").split(":")[:2]
        for service in COMPOSE["services"].values()
        for volume in service.get("volumes", ())
        if volume.startswith("./")
    )
    assert len(mounts) == 5
    assert all((ROOT / name).is_file() for name in mounts)
    (provider,) = yaml.safe_load((ROOT / "deploy/grafana/dashboards.yml").read_text())["providers"]
    folder = provider["options"]["path"]
    assert mounts["deploy/grafana/dashboard.json"] == f"{folder}/dashboard.json"


@pytest.fixture
def web_secrets(_admin: Engine, empty_database: URL, tmp_path: Path) -> Iterator[dict[str, Path]]:
    """The files of deploy/secrets.sh, for a server of the test and a login of its own."""
    subprocess.run(["sh", shutil.copy(ROOT / "deploy" / "secrets.sh", tmp_path)], check=True)
    files = {path.name: path for path in (tmp_path / "secrets").iterdir()}
    login = f"web_{uuid4().hex}"
    owner, web = empty_database, make_url(files["web_database_url"].read_text())
    web = owner.set(drivername="postgresql", username=login, password=web.password)
    for name, url in (("database_url", owner), ("web_database_url", web)):
        files[name].chmod(0o600)
        files[name].write_text(url.render_as_string(hide_password=False))
    yield files
    with _admin.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text(f"DROP ROLE IF EXISTS {login}"))


def test_the_page_is_served_with_the_secrets_of_its_service_alone(
    web_secrets: dict[str, Path], empty_database: URL, tmp_path: Path
) -> None:
    def environ(service: str) -> dict[str, str]:
        """The service's variables, with the files of the test."""
        named = {
            name: str(web_secrets[Path(value).name])
            for name, value in OURS[service]["environment"].items()
            if name.endswith("_FILE")
        }
        ours = {"SPOTIFY_PIPELINE_HOME": str(tmp_path / service), "SPOTIFY_CLIENT_ID": "app"}
        if service != "web":
            ours["DAGSTER_PG_URL"] = empty_database.render_as_string(hide_password=False)
        return {"PATH": os.environ["PATH"], "DAGSTER_HOME": str(tmp_path)} | ours | named

    command = [sys.executable, "-m", "spotify_pipeline.cli.main"]
    for _ in range(2):  # the second finds the login
        made = subprocess.run(
            [*command, "init-db"], env=environ("init-db"), capture_output=True, text=True
        )
        assert made.returncode == 0, made.stdout
    login = make_url(web_secrets["web_database_url"].read_text()).username
    engine = create_engine(empty_database)
    with engine.connect() as conn:
        assert rights(conn, str(login)) == CONTRACT
    engine.dispose()
    port = free_port(None, first=28_000)
    page = subprocess.Popen(
        [*command, *OURS["web"]["command"], "--port", str(port)],
        env=environ("web") | {"SPOTIFY_PIPELINE_WEB_URL": f"http://127.0.0.1:{port}"},
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        status = 0
        while status != 200:
            assert time.monotonic() < deadline
            assert page.poll() is None
            time.sleep(0.1)
            with suppress(requests.ConnectionError):
                status = requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10).status_code
    finally:
        page.terminate()
        page.wait(20)
    assert not (tmp_path / "web").exists(), "nothing is kept in the home"
