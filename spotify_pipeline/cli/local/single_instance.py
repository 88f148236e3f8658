"""One `dev` or `demo` per home: two would share logs, and two demos move the same listeners."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spotify_pipeline.settings import ConfigurationError


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Holds the home, which is made if it is missing. Raises ConfigurationError."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.fdopen(os.open(home / "running.lock", os.O_WRONLY | os.O_CREAT, 0o600), "w")
    except OSError as error:
        raise ConfigurationError(
            f"{home} cannot be written ({error.strerror}): set SPOTIFY_PIPELINE_HOME to a "
            "directory of your own."
        ) from None
    # The kernel lets go of it when this process ends, however it ends.
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"`spotify-pipeline dev` or `demo` is running in {home} already: stop it, or give "
                "this one a home of its own with SPOTIFY_PIPELINE_HOME."
            ) from None
        yield
