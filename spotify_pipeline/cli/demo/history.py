"""Imports half a year of history for the demo's listeners, from the simulator's exports."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from io import BytesIO

from spotify_pipeline.domain.import_receipt import Receipt
from spotify_pipeline.errors import WorkFailed
from spotify_pipeline.exports.archives import Upload
from spotify_pipeline.exports.reader import read_exports
from spotify_pipeline.simulator.control import Export, ExportLine
from spotify_pipeline.sync.import_history import import_history
from spotify_pipeline.sync.pipeline import Pipeline
from spotify_pipeline.terminal import progress

HALF_A_YEAR = timedelta(days=182)
# What an import makes of the rows that the books call plays, shorter ones included.
_STORED = ("new", "short", "matched", "known")


def booked_plays(export: Export) -> list[ExportLine]:
    """The rows of an export that are plays, each once."""
    return [line for line in export.books if line.fate in ("play", "short")]


def import_exports(pipeline: Pipeline, exports: Mapping[str, Export]) -> dict[str, Receipt]:
    """Import each user's export. Raises WorkFailed if a receipt differs from the books."""
    receipts = {}
    with progress("Importing half a year of history", len(exports)) as advance:
        for number, (user_id, export) in enumerate(exports.items(), 1):
            upload = Upload(f"{user_id}.zip", BytesIO(export.archive))
            files = read_exports([upload], now=pipeline.now(), include_incognito=False)
            receipt = import_history(pipeline, user_id, files)
            _compare(user_id, receipt, export.books)
            receipts[user_id] = receipt
            advance(number)
    return receipts


def _compare(user_id: str, receipt: Receipt, books: Sequence[ExportLine]) -> None:
    expected = Counter("stored" if line.fate in ("play", "short") else line.fate for line in books)
    counted = Counter[str]()
    for fate, rows in receipt.fates.items():
        counted["stored" if fate in _STORED else fate] += rows
    if +counted != expected:
        raise WorkFailed(
            f"{user_id}: of the export the import counted {dict(+counted)}, the simulator's books "
            f"{dict(expected)}."
        )
