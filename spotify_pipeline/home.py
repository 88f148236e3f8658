"""Makes folders and files that only their owner can enter and read, in the home and elsewhere.

The modes are set whatever the umask, and corrected where an older version or another program
made them wider. The home itself is only made: as root, another account has to pass through it.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile, mkdtemp
from typing import IO

from spotify_pipeline.errors import UsageError, WorkFailed

# For processes that make files by themselves, as Dagster's do.
UMASK = 0o077
_OTHERS = 0o077


def private_folder(home: Path, name: str) -> Path:
    """The folder of this name in the home, 0700."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = home / name
    folder.mkdir(mode=0o700, exist_ok=True)
    _close(folder)
    return folder


def write_private(path: Path, text: str) -> None:
    """Write a file, 0600, which takes its name when it is complete: others may be reading it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        _close(partial)
        file.write(text.encode())
    partial.replace(path)


def kept_secret(home: Path, name: str, fresh: str) -> str:
    """The content of a file in the home, 0600, which is made with `fresh` if it is missing.

    Of several processes the first wins: the file appears whole or not at all.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = home / name
    if not path.exists():
        draft = home / f"{name}.{os.getpid()}"
        write_private(draft, fresh)
        with suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_text().strip()


def open_to_others(home: Path) -> Iterator[Path]:
    """Paths that other accounts can read or write; a closed folder protects its contents.

    The folder of the embedded Postgres is left out: as root, its account passes through it.
    """
    folders = [home] if _is_open(home) else []
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_symlink() or path == home / "postgres" or not _is_open(path):
                    continue
                yield path
                if entry.is_dir():
                    folders.append(path)


def _is_open(path: Path) -> bool:
    return bool(path.stat().st_mode & _OTHERS)


def _close(path: Path) -> None:
    # A file of another account; doctor reports it.
    with suppress(PermissionError):
        if _is_open(path):
            path.chmod(path.stat().st_mode & ~_OTHERS)


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


@contextmanager
def partial_folder(parent: Path) -> Iterator[Path]:
    """Yields a new folder in `parent`, to rename when it is complete; else it is deleted.

    Raises WorkFailed when the disk does not take it.
    """
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = Path(mkdtemp(prefix=".partial-", dir=parent))
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise WorkFailed(f"{parent} cannot be written: {error.strerror}.") from None


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
