"""Stores what a recently-played page brought and what it says about completeness."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from spotify_pipeline.domain.coverage import account_for_page
from spotify_pipeline.storage.coverage import FetchedPage, read_known, save_pages
from spotify_pipeline.storage.plays import insert_plays
from spotify_pipeline.sync.collect import Collected


@dataclass(frozen=True, slots=True)
class StoredPages:
    """The plays that were new, as (user_id, played_at), and where gaps opened, per user."""

    new_plays: list[tuple[str, datetime]]
    gaps_opened_at: dict[str, datetime]


def store_pages(conn: Connection, collected: Sequence[Collected]) -> StoredPages:
    """Insert the new plays of these pages; extend covers, open and close gaps, log the pages."""
    pages = {
        one.listener.user_id: (one.plays, one.fetched_at)
        for one in collected
        if one.plays is not None
    }
    # Before the insert: a page must not overlap with itself.
    known = read_known(conn, {user_id: page.item_times for user_id, (page, _) in pages.items()})
    new_plays = insert_plays(conn, {user_id: page.plays for user_id, (page, _) in pages.items()})
    new = Counter(user_id for user_id, _ in new_plays)
    fetched = [
        FetchedPage(
            user_id=user_id,
            fetched_at=at,
            item_times=page.item_times,
            new_plays=new[user_id],
            skipped=page.skipped,
            account=account_for_page(page.item_times, page.has_more, at, known[user_id]),
        )
        for user_id, (page, at) in pages.items()
    ]
    save_pages(conn, fetched, known)
    opened = {page.user_id: page.account.opened for page in fetched}
    return StoredPages(new_plays, {user_id: gap.start for user_id, gap in opened.items() if gap})
