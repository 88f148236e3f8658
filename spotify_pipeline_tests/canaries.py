"""Searches for leaked secrets, in clear text or in a usual encoding."""

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from sqlalchemy import URL

from spotify_pipeline_tests.traces import every_row, unpacked

Place = TypeVar("Place")


class Canaries:
    """Secrets by name, and where they were found."""

    def __init__(self) -> None:
        self._forms: dict[bytes, str] = {}

    @property
    def names(self) -> set[str]:
        """The names of all secrets."""
        return set(self._forms.values())

    def add(self, name: str, secret: str) -> None:
        """Adds a secret to search for: plain, URL-encoded, in base64 and in hex."""
        assert len(secret) >= 16, f"{name} is too short to be told from other text"
        plain = secret.encode()
        for form in (plain, quote(secret, safe="").encode(), plain.hex().encode()):
            self._forms[form] = name
        # The three base64 alignments, without the end, which depends on what follows.
        for skipped in range(3):
            coded = base64.b64encode(plain[skipped:])[: len(plain[skipped:]) // 3 * 4]
            self._forms[coded] = name

    def found_in(self, said: str | bytes) -> set[str]:
        """The names of the secrets in a text or a file's content."""
        raw = said.encode(errors="surrogateescape") if isinstance(said, str) else said
        return {
            name for part in unpacked(raw) for form, name in self._forms.items() if form in part
        }

    def found_in_rows(self, *urls: URL) -> dict[str, set[str]]:
        """By table: the secrets in its rows."""
        parts: dict[str, list[str]] = {}
        for url in urls:
            for table, row in every_row(url):
                parts.setdefault(table, []).append(row)
        return _only_found({table: self.found_in("\n".join(rows)) for table, rows in parts.items()})

    def found_in_files(self, paths: Iterable[Path]) -> dict[Path, set[str]]:
        """By file: the secrets in its content or its name."""
        found = {}
        for path in paths:
            if path.is_file():
                found[path] = self.found_in(path.read_bytes()) | self.found_in(str(path))
        return _only_found(found)


def _only_found(found: dict[Place, set[str]]) -> dict[Place, set[str]]:
    return {place: names for place, names in found.items() if names}
