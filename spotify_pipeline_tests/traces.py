"""Searches for a word in all stored data: every row of a database, every file of a folder."""

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from zipfile import ZipFile, is_zipfile

from sqlalchemy import URL, inspect, text

from spotify_pipeline.storage.postgres.engine import make_engine


def every_row(url: URL) -> Iterator[tuple[str, str]]:
    """All rows of all tables as (table, text), with compressed columns decompressed."""
    engine = make_engine(url, pool_size=1)
    try:
        with engine.connect() as conn:
            for schema in inspect(conn).get_schema_names():
                if schema == "information_schema":
                    continue
                for table in inspect(conn).get_table_names(schema):
                    for row in conn.execute(text(f'SELECT * FROM "{schema}"."{table}"')):
                        yield table, "\n".join(map(_readable, row))
    finally:
        engine.dispose()


def rows_naming(url: URL, word: str) -> dict[str, int]:
    """The number of rows of each table with the word in any column."""
    return dict(Counter(table for table, row in every_row(url) if word in row))


def _readable(value: object) -> str:
    if isinstance(value, bytes | memoryview):
        return b"\n".join(unpacked(bytes(value))).decode("latin-1")
    return str(value)


def unpacked(raw: bytes) -> Iterator[bytes]:
    """The bytes, and their content if they are zlib, gzip or a zip."""
    yield raw
    with suppress(zlib.error):
        yield zlib.decompress(raw)
    if raw.startswith(b"\x1f\x8b"):
        yield gzip.decompress(raw)
    if raw.startswith(b"PK") and is_zipfile(io.BytesIO(raw)):
        with ZipFile(io.BytesIO(raw)) as archive:
            yield from map(archive.read, archive.namelist())


def files_naming(folder: Path, word: str) -> list[Path]:
    """The files with the word in their content or name."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and (word in path.name or word.encode() in path.read_bytes())
    ]
