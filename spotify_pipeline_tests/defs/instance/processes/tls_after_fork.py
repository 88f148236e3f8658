"""A program: two processes forked from the warm one shake hands by TLS and print their nonces."""

import ssl
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from spotify_pipeline.defs.instance.processes.warm_process import RunStarter, code_of


def context(side: int) -> ssl.SSLContext:
    """TLS without a certificate: both sides prove nothing, and encrypt all the same."""
    made = ssl.SSLContext(side)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers("AECDH-AES256-SHA@SECLEVEL=0")
    return made


def shake_hands(nonces: Any) -> None:
    """Sends this process's nonce, from the first message of the handshake."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(to_client, to_server)
    server = context(ssl.PROTOCOL_TLS_SERVER).wrap_bio(to_server, to_client, server_side=True)
    nonce, open_sides = b"", [client, server]
    while open_sides:
        for side in list(open_sides):
            try:
                side.do_handshake()
                open_sides.remove(side)
            except ssl.SSLWantReadError:
                pass
            if side is client and not nonce:
                hello = to_server.read()
                to_server.write(hello)
                # Record and handshake headers and the version stand before it.
                nonce = hello[11:43]
    client.write(b"hello")
    assert server.read() == b"hello"
    nonces.put(nonce.hex())


if __name__ == "__main__":
    starter = RunStarter(Path(__file__).parent, code_of(Path(__file__).parent))
    forked = starter.context()
    nonces = get_context("forkserver").Queue()
    processes = [forked.Process(target=shake_hands, args=(nonces,)) for _ in range(2)]  # type: ignore[attr-defined]
    for process in processes:
        process.start()
    for _ in processes:
        print(nonces.get(timeout=200))
    for process in processes:
        process.join()
        assert process.exitcode == 0
