"""Why an export cannot be imported."""

from spotify_pipeline.errors import UsageError


class BadExport(UsageError):
    """A file or archive that cannot be imported; the message names it and says what to do."""


class NotAnArray(BadExport):
    """The file is no JSON array, so it holds no history."""
