"""Property test: with any plays and polls, no play is lost outside a gap."""

from datetime import datetime
from itertools import pairwise

from hypothesis import given

from spotify_pipeline_tests.domain.listening.feed import Story, recorded, stories


@given(stories())
def test_a_play_published_in_time_was_shown_or_lies_in_an_open_gap(story: Story) -> None:
    """In time: by the first correct response after its end. Later ones can be lost unnoticed."""
    record, shown = recorded(story), story.ever_shown()
    first = min((poll.at for poll in story.polls if not poll.fails), default=None)
    for heard in story.in_time():
        covered = any(cover.contains(heard.ended_at) for cover in record.covered)
        # Plays that ended before the first page may precede everything it shows.
        if covered or (first and heard.ended_at > first):
            trace = any(gap.contains(heard.ended_at) for gap in record.open_gaps)
            assert trace or heard in shown, heard


@given(stories())
def test_pages_that_share_an_item_overlap_and_open_no_gap(story: Story) -> None:
    before: set[datetime] = set()
    usable = {heard.ended_at for heard in story.heard if heard.usable}
    for items, account in recorded(story).pages:
        assert account.overlapped or not items & before & usable
        assert account.opened is None or not account.overlapped
        before |= items


@given(stories())
def test_covered_intervals_and_open_gaps_do_not_overlap(story: Story) -> None:
    record = recorded(story)
    for _, account in record.pages:
        # A page of future plays covers a single instant.
        assert all(cover.start <= cover.end for cover in account.covered)
        assert all(earlier.end < later.start for earlier, later in pairwise(account.covered))
    gaps = record.open_gaps
    assert all(gap.start < gap.end for gap in gaps)
    assert all(gap.end <= later.start for gap, later in pairwise(gaps))
