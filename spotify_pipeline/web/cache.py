"""The bounded cache of rendered profile pages.

An entry lives for an hour. The pipeline's cache hook drops it; where there is no hook, or another
process got it, the entry is compared with the database again after two seconds of use.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from threading import Lock

MAX_AGE_SECONDS = 3600
CHECK_SECONDS = 2.0
# About 120 kB each.
MAX_PAGES = 200


@dataclass(frozen=True, slots=True)
class CachedPage:
    """A public page. `version` is that of the profile it was rendered from; times are monotonic."""

    user_id: str
    version: str
    body: bytes
    etag: str
    made_at: float
    checked_at: float


class PageCache:
    """Pages by profile name; the least recently used one goes first. Safe for threads."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._pages: OrderedDict[str, CachedPage] = OrderedDict()
        self._lock = Lock()

    def get(self, name: str) -> CachedPage | None:
        """The page, unless it is older than an hour."""
        with self._lock:
            page = self._pages.get(name)
            if page is None:
                return None
            if self.age(page) >= MAX_AGE_SECONDS:
                del self._pages[name]
                return None
            self._pages.move_to_end(name)
            return page

    def age(self, page: CachedPage) -> float:
        """Seconds since it was rendered."""
        return self._monotonic() - page.made_at

    def is_fresh(self, page: CachedPage) -> bool:
        """Whether it may be served without asking the database."""
        return self._monotonic() - page.checked_at < CHECK_SECONDS

    def confirm(self, name: str, page: CachedPage) -> CachedPage:
        """The database still shows the page's version to visitors."""
        page = replace(page, checked_at=self._monotonic())
        with self._lock:
            if name in self._pages:
                self._pages[name] = page
        return page

    def put(self, name: str, user_id: str, version: str, body: bytes) -> CachedPage:
        """Keep a page that was just rendered."""
        now = self._monotonic()
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        page = CachedPage(user_id, version, body, etag, now, now)
        with self._lock:
            self._pages[name] = page
            self._pages.move_to_end(name)
            while len(self._pages) > MAX_PAGES:
                self._pages.popitem(last=False)
        return page

    def drop(self, name: str) -> None:
        """Forget a page that visitors may no longer see."""
        with self._lock:
            self._pages.pop(name, None)

    def drop_users(self, user_ids: Collection[str]) -> None:
        """Forget every page of these users."""
        users = set(user_ids)
        with self._lock:
            for name in [name for name, page in self._pages.items() if page.user_id in users]:
                del self._pages[name]
