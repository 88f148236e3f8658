"""Stores what a recently-played page brought and what it says about completeness."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from spotify_pipeline.domain.coverage import Account, Known, account_for_page
from spotify_pipeline.domain.model import PlaysPage
from spotify_pipeline.storage.coverage import FetchedPage, read_known, save_pages
from spotify_pipeline.storage.plays import insert_plays
from spotify_pipeline.sync.collect import Collected


def store_pages(conn: Connection, collected: Sequence[Collected]) -> list[tuple[str, datetime]]:
    """Insert the new plays of these pages; extend covers, open and close gaps, log the pages.

    Returns the plays that were new, as (user_id, played_at).
    """
    pages = {
        one.listener.user_id: (_kept(one.plays, one.listener.plays_from), one.fetched_at)
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
            items=page.items,
            item_times=page.item_times,
            new_plays=new[user_id],
            skipped=page.skipped,
            account=_account(page, at, known[user_id]),
        )
        for user_id, (page, at) in pages.items()
    ]
    save_pages(conn, fetched, known)
    return new_plays


def _kept(page: PlaysPage, since: datetime | None) -> PlaysPage:
    """The page without plays that retention has deleted; their day could not be counted again."""
    if since is None:
        return page
    plays = tuple(play for play in page.plays if play.played_at >= since)
    if refused := len(page.plays) - len(plays):
        page = replace(page, plays=plays, skipped={**page.skipped, "before_retention": refused})
    return page


def _account(page: PlaysPage, fetched_at: datetime, known: Known) -> Account:
    # A page of items without a readable time is not empty: it says nothing at all.
    is_all = not page.items or (bool(page.item_times) and not page.has_more)
    return account_for_page(page.item_times, fetched_at, known, is_all=is_all)
