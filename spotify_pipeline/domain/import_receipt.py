"""The fates of an export's rows: a closed list, and the receipt that counts them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from spotify_pipeline.domain.listening.exported import ExportSource

# Every row has exactly one. In the order of receipts; the meanings complete "Rows of them: ...".
FATES: dict[str, str] = {
    "new": "stored as plays",
    "matched": "plays that the API had shown; now it is known how long they were heard",
    "known": "imported before",
    "repeated": "the same row again in these files",
    "short": "stored, but heard for less than 30 s: they count in listened_ms only",
    "silent": "0 ms: not stored",
    "podcast": "episodes of podcasts: not stored",
    "audiobook": "chapters of audiobooks: not stored",
    "local": "files of the user's own, without a Spotify id: not stored",
    "incognito": "private sessions, not asked for: not stored",
    "superseded": "account data of plays that the extended history has, too",
    "malformed": "unreadable: not stored",
    "future": "end more than 5 minutes in the future: not stored",
    "before_retention": "older than the plays that the operator keeps: not stored",
}


@dataclass(frozen=True, slots=True)
class FileReceipt:
    """Rows of a file by fate. `first_at` and `last_at` (UTC) span what it knows."""

    name: str
    source: ExportSource
    rows_read: int
    fates: Mapping[str, int]
    first_at: datetime | None = None
    last_at: datetime | None = None
    # Index and reason of the first hundred.
    malformed: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Estimate:
    """How good the API's minutes are: of the time that the API and an export both cover.

    `estimated_ms` is what rule and lengths say of the API plays alone, `heard_ms` what the export
    says.
    """

    days: int
    estimated_ms: int
    heard_ms: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """Rows of an import by fate."""

    files: tuple[FileReceipt, ...] = ()
    estimate: Estimate | None = None

    @property
    def fates(self) -> dict[str, int]:
        """Rows of all files by fate, in the order of FATES."""
        total = Counter[str]()
        for file in self.files:
            total.update(file.fates)
        return {fate: total[fate] for fate in FATES}

    @property
    def rows_read(self) -> int:
        """Rows of all files."""
        return sum(file.rows_read for file in self.files)

    @property
    def first_at(self) -> datetime | None:
        """End of the earliest row."""
        return min((file.first_at for file in self.files if file.first_at), default=None)

    @property
    def last_at(self) -> datetime | None:
        """End of the latest row."""
        return max((file.last_at for file in self.files if file.last_at), default=None)
