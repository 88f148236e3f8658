"""What every request needs: the configuration, the database, templates, and words for times."""

import asyncio
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cache, cached_property
from importlib import resources
from typing import Any
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element, tostring
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import urlize
from markupsafe import Markup
from sqlalchemy import URL, Engine, create_engine
from starlette.requests import Request
from starlette.responses import HTMLResponse

from spotify_pipeline.terminal import count, printable
from spotify_pipeline.web.cache import PageCache
from spotify_pipeline.web.sessions import Attempts, Cookies, Session

PRIVATE = {"Cache-Control": "private, no-store"}


@cache
def static_file(name: str) -> tuple[bytes, str, str]:
    """Content, media type and address of page.js or style.css; the address changes with it.

    The style begins with that of the portrait, whose drawings the pages show.
    """
    folder = resources.files("spotify_pipeline.web") / "static"
    content = (folder / name).read_bytes()
    if name == "style.css":
        portrait = resources.files("spotify_pipeline.portrait") / "style.css"
        content = portrait.read_bytes() + content
    digest = hashlib.sha256(content).hexdigest()[:16]
    kind = "text/css" if name.endswith(".css") else "text/javascript"
    return content, f"{kind}; charset=utf-8", f"/static/{digest}/{name}"


def drawn(drawing: Element) -> Markup:
    """A drawing of the portrait, for a template: it escapes its own texts."""
    return Markup(tostring(drawing, encoding="unicode", method="html"))  # noqa: S704


def linked(sentence: str) -> Markup:
    """A sentence whose addresses are links."""
    return Markup(urlize(printable(sentence), rel="noreferrer"))  # noqa: S704


def ago(instant: datetime) -> str:
    """How long ago, in words: "12 minutes ago"."""
    minutes = int((datetime.now(UTC) - instant).total_seconds() // 60)
    if minutes < 1:
        return "just now"
    for length, unit in ((1440, "day"), (60, "hour"), (1, "minute")):
        if minutes >= length:
            return f"{count(minutes // length, unit)} ago"
    raise AssertionError


def day(value: date) -> str:
    """A date in words: "Sat 14 Mar 2026"."""
    return f"{value:%a} {value.day} {value:%b %Y}"


def moment(value: datetime, zone: str) -> str:
    """An instant in a zone: "14 Mar 2026 18:05"."""
    local = value.astimezone(ZoneInfo(zone))
    return f"{local.day} {local:%b %Y %H:%M}"


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("spotify_pipeline.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Strips control characters and bidirectional overrides from all that is shown.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    made.filters |= {
        "linked": linked,
        "ago": ago,
        "day": day,
        "moment": moment,
        "count": count,
        "n": "{:,}".format,
    }
    made.globals["static"] = lambda name: static_file(name)[2]
    return made


def render(template: str, **values: Any) -> str:
    """A template as HTML; every value is escaped."""
    return _environment().get_template(template).render(values)


def private_page(
    template: str, session: Session | None, status: int = 200, **values: Any
) -> HTMLResponse:
    """A page that no cache may keep, with the navigation of the signed-in user."""
    body = render(template, session=session, **values)
    return HTMLResponse(body, status, headers=PRIVATE)


def message(
    title: str,
    sentence: str,
    status: int = 200,
    *,
    session: Session | None = None,
    link: tuple[str, str] = ("/", "To the start page"),
) -> HTMLResponse:
    """A page with one sentence and one thing to do."""
    return private_page("message.html", session, status, title=title, sentence=sentence, link=link)


def wants_json(request: Request) -> bool:
    """Whether our script asks, and not a form."""
    return request.headers.get("accept", "") == "application/json"


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
