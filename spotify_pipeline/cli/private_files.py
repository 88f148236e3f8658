"""Writes files of mode 0600: exports, pages and error logs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from spotify_pipeline.errors import UsageError, WorkFailed


@contextmanager
def private_file(path: Path, *, replace: bool = True) -> Iterator[IO[bytes]]:
    """Yields a file of mode 0600, whatever the umask, that takes its name when it is complete.

    An existing file is replaced then, and stays if the block fails; a device or pipe is written to
    directly. Without `replace` an existing file is refused.

    Raises UsageError and WorkFailed when the disk does not take it.
    """
    file = _begun(path, replace)
    partial = None if file.name == str(path) else Path(file.name)
    try:
        with file:
            yield file
        if partial:
            # Replaces the target of a symlink, not the symlink.
            partial.replace(path.resolve())
    except OSError as error:
        raise WorkFailed(f"{path} could not be written: {error.strerror}.") from None
    finally:
        if partial:
            partial.unlink(missing_ok=True)


def _begun(path: Path, replace: bool) -> IO[bytes]:
    try:
        if path.exists() and not replace:
            raise UsageError(f"{path} exists already: give another name, or delete it first.")
        if path.exists() and not path.is_file():
            return path.open("wb")
        directory = path.resolve().parent
        return NamedTemporaryFile(dir=directory, prefix=".partial.", delete=False)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from None
