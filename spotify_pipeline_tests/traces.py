"""Looks for a word in everything that is kept: every row of a database, every file of a folder."""

import zlib
from contextlib import suppress
from pathlib import Path

from sqlalchemy import URL, Engine, inspect, text

from spotify_pipeline.storage.engine import make_engine


def rows_naming(url: URL, word: str) -> dict[str, int]:
    """How many rows of each table have the word in any column, compressed columns unpacked."""
    engine = make_engine(url, pool_size=1)
    try:
        found = {}
        for schema in inspect(engine).get_schema_names():
            if schema == "information_schema":
                continue
            for table in inspect(engine).get_table_names(schema):
                if count := _count(engine, f'"{schema}"."{table}"', word):
                    found[table] = count
        return found
    finally:
        engine.dispose()


def _count(engine: Engine, table: str, word: str) -> int:
    with engine.connect() as conn:
        rows = conn.execute(text(f"SELECT * FROM {table}")).all()
    return sum(any(word in _readable(value) for value in row) for row in rows)


def _readable(value: object) -> str:
    if isinstance(value, bytes | memoryview):
        raw = bytes(value)
        with suppress(zlib.error):
            raw = zlib.decompress(raw)
        return raw.decode("latin-1")
    return str(value)


def files_naming(folder: Path, word: str) -> list[Path]:
    """The files that contain the word, or have it in their name."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and (word in path.name or word.encode() in path.read_bytes())
    ]
