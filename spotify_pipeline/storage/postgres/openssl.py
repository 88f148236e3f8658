"""Loads OpenSSL before a process connects: psycopg and psycopg2 bring one each.

OpenSSL sets up its algorithms when a password is hashed for the first time, which took 7 and 4 MB
of each forked process. Those that are forked afterwards share them, and each has random numbers of
its own.
"""

import socket

import psycopg
import psycopg2
from psycopg2.extensions import encrypt_password


def load() -> None:
    """Hashes a password with both libraries. Connects to no database; makes no TLS context."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
        new = psycopg.pq.PGconn.connect_start(f"host=127.0.0.1 port={port}".encode())
        new.encrypt_password(b"", b"", b"scram-sha-256")
        new.finish()
        old = psycopg2.connect(host="127.0.0.1", port=port, async_=True)
        encrypt_password("", "", old, "scram-sha-256")
        old.close()
