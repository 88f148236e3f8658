"""Serves the application with uvicorn until a signal stops it."""

import logging
from collections.abc import Callable

import uvicorn

from spotify_pipeline.web.application import make_application
from spotify_pipeline.web.site import Config


def serve(config: Config, host: str, port: int, announce: Callable[[], object]) -> None:
    """Serve until SIGINT or SIGTERM. Writes no access log: addresses hold codes and share links."""

    class Server(uvicorn.Server):
        async def startup(self, *arguments: object, **options: object) -> None:
            await super().startup(*arguments, **options)  # type: ignore[arg-type]
            if self.started:
                announce()

    logging.basicConfig(level=logging.WARNING)
    settings = uvicorn.Config(
        make_application(config),
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
    Server(settings).run()
