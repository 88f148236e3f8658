"""What every request needs: the configuration, the database, templates, sessions and the cache."""

import asyncio
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import urlsplit

from sqlalchemy import URL, Engine, create_engine
from starlette.requests import Request

from spotify_pipeline.web.cache import PageCache
from spotify_pipeline.web.sessions import Attempts, Cookies

MOST_READ_AT_ONCE = 4


@dataclass(frozen=True)
class Config:
    """How the page is served. `url` is its public address, without a slash at the end.

    `accounts` are the ids of the Spotify accounts that may sign in; empty: all. `keep_plays_days`
    of 0: plays are kept for ever.
    """

    url: str
    database_url: URL = field(repr=False)
    secret: str = field(repr=False)
    client_id: str | None
    client_secret: str | None = field(repr=False)
    accounts_url: str
    api_url: str
    hook_secret: str | None = field(default=None, repr=False)
    accounts: frozenset[str] = frozenset()
    keep_plays_days: int = 0

    @property
    def is_https(self) -> bool:
        """Whether cookies can be Secure."""
        return urlsplit(self.url).scheme == "https"


class Site:
    """The parts that all requests of a process share."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.cookies = Cookies(config.secret, secure=config.is_https)
        self.cache = PageCache()
        self.attempts = Attempts()
        # The users whose histories are being uploaded to this process, and who download their data.
        self.uploading: set[str] = set()
        self.downloading: set[str] = set()
        # Reading a history takes one core each.
        self.reading = asyncio.Semaphore(MOST_READ_AT_ONCE)

    @cached_property
    def engine(self) -> Engine:
        """A pool of 10 connections at most; limits of statements are those of the login."""
        return create_engine(
            self.config.database_url,
            pool_size=5,
            max_overflow=5,
            pool_timeout=5,
            pool_pre_ping=True,
            hide_parameters=True,
            isolation_level="READ COMMITTED",
            connect_args={"application_name": "spotify_pipeline_web", "connect_timeout": 10},
        )


def site_of(request: Request) -> Site:
    """The site that serves this request."""
    site: Site = request.app.state.site
    return site
