"""The log files of Dagster's processes: plain text, rotated, kept over restarts."""

import io
import logging
import os
import re
import threading
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO, Any

LARGEST_BYTES = 5_000_000
OLD_FILES = 3

# Dagster colours its log in files too.
_COLOURS = re.compile(rb"\x1b\[[0-9;]*m")


class _PrivateFile(RotatingFileHandler):
    def _open(self) -> Any:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.fchmod(descriptor, 0o600)
        return io.open(descriptor, "a", encoding="utf-8", errors="replace")  # noqa: UP020


def keep_log(output: IO[bytes], path: Path) -> threading.Thread:
    """Write a process's output to a file, 0600, in the background, until the process ends."""
    handler = _PrivateFile(path, maxBytes=LARGEST_BYTES, backupCount=OLD_FILES)

    def copy() -> None:
        with output:
            for line in output:
                plain = _COLOURS.sub(b"", line).decode(errors="replace").rstrip("\n")
                handler.emit(logging.LogRecord(path.stem, 0, "", 0, plain, None, None))
        handler.close()

    thread = threading.Thread(target=copy, name=f"log of {path.stem}", daemon=True)
    thread.start()
    return thread
