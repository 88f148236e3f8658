"""Whatever the program is asked to do, no secret is in what it says or in the files it leaves."""

from pathlib import Path

import pytest

from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline_tests.cli.conftest import TOKEN_KEY, Run

BAD_TOKEN = "AQ-canary-of-nobody"
REVALIDATE_SECRET = "canary-revalidate-secret"


@pytest.fixture
def secrets(listener, environ, simulator: Simulator, dagster, database) -> list[str]:
    """A configured pipeline with a user who works and one who does not: all its secrets."""
    environ.setenv("SPOTIFY_PIPELINE_REVALIDATE_URL", "http://127.0.0.1:9/hook")
    environ.setenv("SPOTIFY_PIPELINE_REVALIDATE_SECRET", REVALIDATE_SECRET)
    tokens = [listener("mira").refresh_token, listener("kenji").refresh_token]
    listener("revoked", token=BAD_TOKEN)
    passwords = [str(url.password) for url in (database, dagster) if url.password]
    others = [simulator.client_secret, TOKEN_KEY.partition(":")[2], BAD_TOKEN, REVALIDATE_SECRET]
    return tokens + passwords + others


def test_no_secret_is_in_any_output_or_in_a_file_of_the_home(
    run: Run, secrets: list[str], environ, tmp_path: Path
):
    asked = [
        ("sync", "mira"),
        ("sync", "revoked"),
        ("sync", "--all"),
        ("rebuild",),
        ("users", "list"),
        ("users", "list", "--failed", "--json"),
        ("users", "show", "mira", "--json"),
        ("users", "set", "mira", "--timezone", "nowhere"),
        ("users", "reset", "revoked"),
        ("keys", "list"),
        ("keys", "list", "--json"),
        ("keys", "rotate"),
        ("doctor",),
        ("doctor", "--json"),
        ("init-db",),
        ("nonsense", secrets[0]),
        ("users", "add", "mira", secrets[0]),
    ]
    said = {arguments: run(*arguments).output for arguments in asked}
    environ.setenv("SPOTIFY_ACCOUNTS_URL", "http://127.0.0.1:9")
    environ.setenv("SPOTIFY_API_URL", "http://127.0.0.1:9")
    said["doctor", "unreachable"] = run("doctor").output
    for arguments, output in said.items():
        assert [secret for secret in secrets if secret in output] == [], arguments
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert files
    for path in files:
        written = path.read_text(errors="replace")
        assert [secret for secret in secrets if secret in written] == [], path
