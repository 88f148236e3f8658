"""An error as Spotify sends it."""

from collections.abc import Mapping

from spotify_pipeline.simulator.http.shapes import Json, error


class Refusal(Exception):
    """HTTP status, and a JSON body or plain text."""

    def __init__(
        self, status: int, body: Json | str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.body = body
        self.headers = dict(headers or {})

    @classmethod
    def api(cls, status: int, message: str) -> "Refusal":
        """An error of the Web API."""
        return cls(status, error(status, message))

    @classmethod
    def accounts(cls, code: str, description: str) -> "Refusal":
        """An error of accounts.spotify.com: 400 with a flat body."""
        return cls(400, {"error": code, "error_description": description})
