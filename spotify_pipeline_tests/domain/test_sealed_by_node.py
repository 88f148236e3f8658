"""A value sealed by an app with libsodium in Node can be opened here.

`sealed_by_node/sealed.txt` was made by `sealed_by_node/seal.mjs` with libsodium-wrappers 0.8.4 and
the key below, used nowhere else. The script itself runs if Node and that module exist.
"""

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from spotify_pipeline.domain.sealing import Keyring

HERE = Path(__file__).parent / "sealed_by_node"
KEYRING = Keyring.parse(f"testkey01:{base64.b64encode(bytes(range(32))).decode()}")
USER_ID, TOKEN = "anna é 🎧", "AQD-refresh-token-text"
NODE = shutil.which("node")


def opened(sealed: str) -> str:
    return KEYRING.open("testkey01", base64.b64decode(sealed), USER_ID)


def test_a_token_sealed_by_node_opens() -> None:
    assert opened((HERE / "sealed.txt").read_text()) == TOKEN


def has_libsodium() -> bool:
    # NODE_PATH locates the module if it is not beside the script.
    tried = NODE and subprocess.run(
        [NODE, "-e", "require('libsodium-wrappers')"], cwd=HERE, capture_output=True, check=False
    )
    return bool(tried) and tried.returncode == 0


def test_a_token_sealed_by_the_installed_node_opens() -> None:
    if not has_libsodium():
        pytest.skip("needs Node and `npm install libsodium-wrappers` (NODE_PATH says where)")
    assert NODE is not None
    public_key = base64.b64encode(KEYRING.public_key("testkey01")).decode()
    sealed = subprocess.run(
        [NODE, str(HERE / "seal.mjs"), public_key, USER_ID],
        input=f"{TOKEN}\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert opened(sealed.stdout) == TOKEN
