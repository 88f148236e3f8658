"""A model of Spotify's feed of one user, and hypothesis strategies for it.

The feed shows the last `SIZE` published plays, by the end of the play. A play is published some
time after its end, so it may appear below others, or never, if `SIZE` newer ones came first.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from hypothesis import strategies as st

from spotify_pipeline.domain.listening.coverage import (
    CoverageChange,
    Interval,
    KnownCoverage,
    apply_page,
)
from spotify_pipeline_tests.domain.builders import utc

SIZE = 5


@dataclass(frozen=True)
class FeedPlay:
    """A play: its end, when the feed first showed it, and whether we can store it."""

    ended_at: datetime
    published_at: datetime
    usable: bool = True


@dataclass(frozen=True)
class Poll:
    """A poll of the feed. `fails`: the response is empty, as if the user had no plays."""

    at: datetime
    fails: bool = False


@dataclass(frozen=True)
class Story:
    """Plays and polls, and how far our clock is behind Spotify's."""

    heard: tuple[FeedPlay, ...]
    polls: tuple[Poll, ...]
    behind: timedelta

    def window(self, poll: Poll) -> list[FeedPlay]:
        """What the feed shows, oldest first."""
        return self._published(poll)[-SIZE:]

    def has_more(self, poll: Poll) -> bool:
        """Whether Spotify offers a page behind this one."""
        return len(self._published(poll)) > SIZE and not poll.fails

    def _published(self, poll: Poll) -> list[FeedPlay]:
        published = [] if poll.fails else [h for h in self.heard if h.published_at <= poll.at]
        return sorted(published, key=lambda heard: heard.ended_at)

    def ever_shown(self) -> set[FeedPlay]:
        """All plays that were on any page."""
        return {heard for poll in self.polls for heard in self.window(poll)}

    def in_time(self) -> Collection[FeedPlay]:
        """Plays that were published by the first correct response after their end."""
        true = [poll.at for poll in self.polls if not poll.fails]
        return [
            heard
            for heard in self.heard
            if (first := min((at for at in true if at >= heard.ended_at), default=None))
            and heard.published_at <= first
        ]


@dataclass
class Record:
    """What a pipeline without a database would store."""

    stored: set[datetime] = field(default_factory=set)
    covered: tuple[Interval, ...] = ()
    gaps: dict[datetime, datetime] = field(default_factory=dict)
    pages: list[tuple[set[datetime], CoverageChange]] = field(default_factory=list)

    @property
    def open_gaps(self) -> tuple[Interval, ...]:
        return tuple(Interval(*gap) for gap in sorted(self.gaps.items()))


def recorded(story: Story) -> Record:
    """The record after all polls of a story."""
    record = Record()
    for poll in story.polls:
        window = story.window(poll)
        items = {heard.ended_at for heard in window}
        known = KnownCoverage(
            covered=record.covered,
            open_gaps=record.open_gaps,
            seen=frozenset(items & record.stored),
            not_shown=frozenset(record.stored - items),
        )
        change = apply_page(items, poll.at - story.behind, known, is_short=not story.has_more(poll))
        for gap in change.closed:
            del record.gaps[gap.start]
        if gap := change.opened:
            record.gaps[gap.start] = max(gap.end, record.gaps.get(gap.start, gap.end))
        record.covered = change.covered
        record.stored |= {heard.ended_at for heard in window if heard.usable}
        record.pages.append((items, change))
    return record


_minutes = st.integers(0, 600)
_late = st.one_of(st.just(0), st.just(0), st.integers(1, 300))


def _at(minutes: int) -> datetime:
    return utc("2026-03-01") + timedelta(minutes=minutes)


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Ten hours of listening, in bursts that are longer than the feed or not."""
    ends = draw(st.lists(st.tuples(_minutes, st.integers(1, 9)), max_size=8))
    minutes = sorted({start + n for start, length in ends for n in range(length)})
    heard = [
        FeedPlay(_at(minute), _at(minute + draw(_late)), draw(st.integers(0, 9)) < 9)
        for minute in minutes
    ]
    story = Story(tuple(heard), (), timedelta(minutes=draw(st.sampled_from([0, 0, 1, 4]))))
    for at in sorted(draw(st.lists(st.integers(0, 900), max_size=12, unique=True))):
        # For a user without plays an empty response is correct.
        known = any(shown.usable for shown in story.ever_shown())
        poll = Poll(_at(at), fails=known and draw(st.integers(0, 9)) == 9)
        story = replace(story, polls=(*story.polls, poll))
    return story
