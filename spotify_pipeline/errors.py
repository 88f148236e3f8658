"""Errors whose message is one sentence for an operator, with the exit code of the command line.

    PipelineError                exit 1: it was tried and failed
    ├── WorkFailed               a command did not do what was asked
    ├── StackFailed, ConnectFailed, EmbeddedPostgresError, SchemaBusy, SealError, SimulatorError
    └── UsageError               exit 2: wrong usage or configuration, nothing was tried
        └── ConfigurationError, BadDatabaseUrl, UnsupportedServer, SchemaOutdated, ClockIsWrong,
            UnknownZone, BadExport

A message says what to do and names no secret. This module imports nothing of ours, so that every
layer may raise these. What Spotify answers is in spotify/errors.py.
"""

# Exit code after Ctrl-C.
INTERRUPTED = 130


class PipelineError(Exception):
    """Base of all expected errors; the message says what to do."""

    exit_code = 1


class WorkFailed(PipelineError):
    """A command did not do what was asked."""


class UsageError(PipelineError):
    """Wrong usage or configuration; the message says what to do instead."""

    exit_code = 2
