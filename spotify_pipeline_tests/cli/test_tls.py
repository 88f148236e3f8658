"""TLS is verified, always: nothing in the code, the settings or the environment switches it off."""

import re
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import spotify_pipeline
from spotify_pipeline.cli.doctor.local import reach
from spotify_pipeline.settings import variables
from spotify_pipeline.sync.deliver import Complaint, post
from spotify_pipeline_tests.spotify.server import ScriptedServer, answer

# What switches it off in other programs, or did so in older versions of our libraries.
HOSTILE = {
    "PYTHONHTTPSVERIFY": "0",
    "CURL_CA_BUNDLE": "",
    "REQUESTS_CA_BUNDLE": "",
    "SSL_CERT_FILE": "",
    "SSL_VERIFY": "false",
    "REQUESTS_VERIFY": "0",
    "GIT_SSL_NO_VERIFY": "1",
    "NODE_TLS_REJECT_UNAUTHORIZED": "0",
    "PYTHONWARNINGS": "ignore",
}
SWITCHES = (
    r"verify\s*=\s*(False|None|0)|\"verify\"\s*[:\]]\s*=?\s*False|cert_reqs|CERT_NONE|CERT_OPTIONAL"
    r"|check_hostname|_create_unverified_context|_create_default_https_context|disable_warnings"
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    key, made = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(made)),
        ],
        check=True,
        capture_output=True,
    )
    return made, key


@pytest.fixture
def impostor(certificate: tuple[Path, Path]) -> Iterator[ScriptedServer]:
    """Somebody who reads along: a real TLS server with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = ScriptedServer([answer(200, {})], tls=context)
    yield server
    server.close()


@pytest.fixture
def hostile(environ: pytest.MonkeyPatch) -> None:
    for name, value in HOSTILE.items():
        environ.setenv(name, value)


def test_no_line_of_the_code_and_no_setting_switches_verification_off() -> None:
    package = Path(spotify_pipeline.__file__).parent
    found = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in package.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(SWITCHES, line)
    ]
    assert found == []
    assert [name for name in variables() if re.search("TLS|SSL|VERIFY|INSECURE", name)] == []
    for line in ("verify=False", "context.check_hostname = False", "ssl.CERT_NONE"):
        assert re.search(SWITCHES, line)


def test_an_untrusted_certificate_is_refused_in_one_sentence(
    listener: Callable[..., object],
    process: Callable[..., "subprocess.CompletedProcess[str]"],
    impostor: ScriptedServer,
    dagster: object,
    hostile: None,
) -> None:
    listener("mira")
    addresses = {"SPOTIFY_API_URL": impostor.url, "SPOTIFY_ACCOUNTS_URL": impostor.url}
    synced = process("sync", "mira", **addresses)
    assert synced.returncode == 1
    (said,) = [line for line in synced.stderr.splitlines() if line.startswith("Error: ")]
    assert "token: no trusted TLS connection" in said
    checked = process("doctor", **addresses)
    assert f"{impostor.url} has a certificate that is not trusted" in checked.stdout
    assert impostor.connections >= 2
    assert impostor.seen == []


def test_a_webhook_with_an_untrusted_certificate_gets_no_request(
    impostor: ScriptedServer, hostile: None
) -> None:
    complaint = post("The cache hook", f"{impostor.url}/hook", b"{}", 5)
    assert complaint == Complaint("The cache hook did not answer: SSLError", may_pass=True)
    assert impostor.connections == 1
    assert impostor.seen == []


def test_a_certificate_authority_can_be_added(
    impostor: ScriptedServer, certificate: tuple[Path, Path], environ: pytest.MonkeyPatch
) -> None:
    environ.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    assert post("The cache hook", f"{impostor.url}/hook", b"{}", 5) is None
    assert [call.path for call in impostor.seen] == ["/hook"]
    assert reach(impostor.url).status == "ok"
