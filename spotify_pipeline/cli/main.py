"""The entry point of the console script. It imports next to nothing: Ctrl-C works at once."""

import gc
import os
import sys

from spotify_pipeline.errors import INTERRUPTED


def main() -> None:
    """Run the program and exit."""
    try:
        _open_what_is_closed()
        # Imports leave no garbage, and collecting it would take a tenth of a command's CPU.
        gc.set_threshold(20_000)
        os.umask(0o077)  # what we and our children write is for the owner
        from spotify_pipeline.cli.program import program
        from spotify_pipeline.redaction import install

        install()
        for stream in (sys.stdout, sys.stderr):
            # A name that the terminal's encoding cannot show is no reason to fail.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        program(prog_name="spotify-pipeline")
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            # Python would first wait for threads that may still talk to Spotify for minutes.
            sys.stdout.flush()
            os._exit(INTERRUPTED)
        raise
    finally:
        # Otherwise Python looks through all objects several times as it exits: 0.5 s of CPU.
        gc.freeze()


def _open_what_is_closed() -> None:
    """`<&-` and `>&-` give us no stream, and the next connection its number: take /dev/null."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


if __name__ == "__main__":
    main()
