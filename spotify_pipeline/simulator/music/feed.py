"""The recently-played feed: a pure function of true plays, oddities and the time.

`Play.end_ms` identifies a true play of a listener permanently: true plays never overlap. What is
served of it (instant, track id, length) may change.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

from spotify_pipeline.simulator.music.catalogue import TrackNames
from spotify_pipeline.simulator.music.listeners import Listener, Play
from spotify_pipeline.simulator.music.oddities import Change, Oddities
from spotify_pipeline.simulator.music.seeds import spotify_id

WINDOW = 50
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS
STRETCH_MS = 90 * 60_000  # one offline stretch: the largest bursts had about 1.4 h of music
# An offline play is stamped at most a stretch, half an hour and some seconds after its end.
_LATEST_STAMP_MS = 3 * HOUR_MS
_MEDIAN_LATE_MS = 5.4 * HOUR_MS
# How far a feed without the 7-day window looks back: the lightest listener pauses for weeks.
_FEED_DAYS = 200


class Entry(NamedTuple):
    """A true play, and how the feed treats it.

    `first_ms`: its first `played_at`, `stamp_ms`: its `played_at` at the given instant; the feed
    lists it from `listed_ms` until `gone_ms` (None: no end); `missing`: never. `uploaded_ms`: when
    the phone of an offline play had a connection again.
    """

    play: Play
    first_ms: int
    stamp_ms: int
    listed_ms: int
    gone_ms: int | None
    missing: bool
    uploaded_ms: int | None = None

    def listed(self, now_ms: int) -> bool:
        """Whether the feed lists it at an instant, regardless of how many plays came after it."""
        here = not self.missing and self.listed_ms <= now_ms
        return here and (self.gone_ms is None or now_ms < self.gone_ms)


class Item(NamedTuple):
    """An item of a page: a play, its `played_at`, and whether it has its second track id."""

    play: Play
    stamp_ms: int
    relinked: bool = False


@dataclass(frozen=True)
class Feed:
    """The feed of one listener: a pure function of its fields and arguments."""

    listener: Listener
    oddities: Oddities
    longest_delay_ms: int = 0

    def plays(self, from_ms: int, to_ms: int) -> list[Play]:
        """The true plays that ended in (from, to], oldest first."""
        plays = self.listener.plays(from_ms, to_ms)
        if not self.oddities.short_tracks:
            return plays
        return [
            play._replace(start_ms=max(play.start_ms, play.end_ms - self.duration_ms(play.track)))
            for play in plays
        ]

    def entries(self, from_ms: int, now_ms: int) -> list[Entry]:
        """The plays that ended in (from, now], oldest first, with their state at `now`."""
        # From a whole stretch: the stamp of an offline play depends on those before it there.
        start_ms = (from_ms // STRETCH_MS - 1) * STRETCH_MS
        entries = list(self._first_entries(self.plays(start_ms, now_ms)))
        return [entry for entry in self._restamped(entries, now_ms) if entry.play.end_ms > from_ms]

    def window(self, now_ms: int) -> tuple[list[Item], bool]:
        """The last 50 items at an instant, newest first, and whether older ones exist."""
        most_days = 8 if self.oddities.seven_days else _FEED_DAYS
        days, items, certain = 1, list[Item](), 0
        while certain <= WINDOW and days < 2 * most_days:
            from_ms = now_ms - days * DAY_MS
            items = list(self._items(self.entries(from_ms, now_ms), now_ms))
            # A play that ended before `from_ms` may be stamped a little later than that.
            certain = sum(item.stamp_ms > from_ms + _LATEST_STAMP_MS for item in items)
            days *= 2
        items.sort(key=lambda item: (-item.stamp_ms, -item.play.end_ms, item.relinked))
        window = items[:WINDOW]
        hour = now_ms // HOUR_MS
        if len(window) == WINDOW and self._chosen(self.oddities.pages_of_49, "page of 49", hour):
            del window[int(WINDOW * self._share("missing item", hour))]
        return window, len(items) > WINDOW

    def in_order_of_call(self, items: Iterable[Item], call: int) -> list[Item]:
        """A page for one call: items of the same instant change their order from call to call."""
        swap = self._share("order", call) < 0.5
        return sorted(
            items,
            key=lambda item: (
                -item.stamp_ms,
                (item.play.end_ms, item.relinked) if swap else (-item.play.end_ms, -item.relinked),
            ),
        )

    def duration_ms(self, track: int) -> int:
        """The true length of a track."""
        catalogue = self.listener.catalogue
        share = self.oddities.short_tracks
        if share and _share(catalogue.seed, "short track", track) < share:
            return 8_000 + int(21_000 * _share(catalogue.seed, "short length", track))
        return catalogue.duration_ms(track)

    def track(self, track: int, now_ms: int, *, relinked: bool = False) -> TrackNames:
        """A track as served at an instant."""
        catalogue = self.listener.catalogue
        original = catalogue.track(track)
        names = original
        if self.oddities.short_tracks:
            names = replace(names, duration_ms=self.duration_ms(track))
        for number, change in enumerate(self.oddities.changes):
            times = change.occurrences(now_ms)
            share = partial(_share, catalogue.seed, "change", number, track)
            chosen = (
                share() < change.share
                if change.track_id is None
                else change.track_id == original.spotify_id
            )
            if times and chosen:
                for field in change.fields:
                    names = _changed(names, field, times, share, catalogue.size)
        if relinked:
            names = replace(names, spotify_id=spotify_id(catalogue.seed, "relinked", track))
        return names

    def _first_entries(self, plays: Sequence[Play]) -> Iterator[Entry]:
        """The plays as first listed."""
        odd = self.oddities
        before: Entry | None = None
        for play in plays:
            end_ms = play.end_ms
            uploaded_ms = self._upload_ms(play, before)
            if uploaded_ms is not None:
                first_ms = play.start_ms if self._late(play) else uploaded_ms
            else:
                joins = before is not None and self._joins(play, before)
                first_ms = before.first_ms if before is not None and joins else end_ms
            delay_ms = self.listener.delay_ms(play, self.longest_delay_ms)
            listed_ms = max(first_ms, uploaded_ms or end_ms) + delay_ms
            gone_ms = None
            if self._chosen(odd.vanishing, "vanishing", end_ms):
                gone_ms = listed_ms + int((2 + 46 * self._share("stays", end_ms)) * HOUR_MS)
            skipped = end_ms - play.start_ms < self.duration_ms(play.track)
            missing = skipped and self._chosen(odd.skipped_missing, "skipped", end_ms)
            before = Entry(play, first_ms, first_ms, listed_ms, gone_ms, missing, uploaded_ms)
            yield before

    def _upload_ms(self, play: Play, before: Entry | None) -> int | None:
        """When an offline play was uploaded: its place in the burst of its stretch."""
        stretch = _stretch(play)
        if not self._chosen(self.oddities.offline, "offline", stretch):
            return None
        if before is not None and before.uploaded_ms and _stretch(before.play) == stretch:
            return before.uploaded_ms + 40 + int(700 * self._share("upload", play.end_ms))
        share = self._share("upload", stretch)
        waits_ms = HOUR_MS / 2 * share
        if self._late(play):
            waits_ms = min(_MEDIAN_LATE_MS * share / (1 - share), 6 * DAY_MS)
        return (stretch + 1) * STRETCH_MS + int(waits_ms)

    def _late(self, play: Play) -> bool:
        """Whether an offline play was uploaded so late that the feed lists it at its start."""
        return self._chosen(self.oddities.late_uploads, "late upload", _stretch(play))

    def _joins(self, play: Play, before: Entry) -> bool:
        """Whether a play is served at the instant of the play before it.

        Never three in a row: the first and the third could be the same song. Nor two songs of one
        title, which count as one recording when the artist is the same.
        """
        share = self.oddities.same_instant
        track = self.listener.catalogue.track
        return (
            self._chosen(share, "same instant", play.end_ms)
            and not self._chosen(share, "same instant", before.play.end_ms)
            and not self._chosen(self.oddities.offline, "offline", _stretch(before.play))
            and track(before.play.track).name != track(play.track).name
            and play.end_ms - before.play.end_ms < HOUR_MS
        )

    def _restamped(self, entries: list[Entry], now_ms: int) -> list[Entry]:
        """The same plays under their `played_at` after all re-stampings until now."""
        if not entries or not self.oddities.restamps:
            return entries
        since_ms = entries[0].play.end_ms
        restamps = sorted(
            (at_ms, restamp.last or 0)
            for restamp in self.oddities.restamps
            for at_ms in restamp.instants(since_ms, now_ms)
        )
        for at_ms, last in restamps:
            hit = [
                index
                for index, entry in enumerate(entries)
                if at_ms - WEEK_MS < entry.stamp_ms <= at_ms and entry.listed(at_ms)
            ]
            hit.sort(key=lambda index: entries[index].stamp_ms)
            for index in hit[-last:]:
                entry = entries[index]
                stamp_ms = entry.stamp_ms + self._shift_ms(entry, at_ms)
                entries[index] = entry._replace(stamp_ms=stamp_ms)
        return entries

    def _shift_ms(self, entry: Entry, at_ms: int) -> int:
        """How far a re-stamping at `at_ms` moves a play: mostly back, sometimes ahead."""
        share = self._share("shift", at_ms, entry.play.end_ms)
        if self._share("ahead", at_ms, entry.play.end_ms) < 1 / 39:
            ahead_ms = 31_000 + int(25_000 * share)
            if entry.stamp_ms + ahead_ms <= at_ms:
                return ahead_ms
        return -800 - int(30_200 * share)

    def _items(self, entries: Iterable[Entry], now_ms: int) -> Iterator[Item]:
        """The items that the feed now lists for these plays; a relinked play may occur twice."""
        oldest_ms = now_ms - WEEK_MS if self.oddities.seven_days else 0
        for entry in entries:
            if entry.listed(now_ms) and entry.stamp_ms > oldest_ms:
                for relinked in self._versions(entry.play, now_ms):
                    yield Item(entry.play, entry.stamp_ms, relinked)

    def _versions(self, play: Play, now_ms: int) -> tuple[bool, ...]:
        """The track ids under which a play is served in this hour: False for the first id."""
        if not self._chosen(self.oddities.relinked, "relinked", play.end_ms):
            return (False,)
        share = self._share("versions", play.end_ms, now_ms // HOUR_MS)
        return (False, True) if share < 0.4 else (share < 0.7,)

    def _chosen(self, share: float, *parts: object) -> bool:
        """Whether an oddity hits this: true for the given share, always the same ones."""
        return share > 0 and self._share(*parts) < share

    def _share(self, *parts: object) -> float:
        return _share(self.listener.seed, self.listener.user_id, *parts)


def _share(*parts: object) -> float:
    """A number in [0, 1) that depends only on the parts. Cheaper than a generator per play."""
    text = "/".join(map(str, parts))
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


def _stretch(play: Play) -> int:
    return (play.end_ms - 1) // STRETCH_MS


def _changed(
    names: TrackNames, field: Change, times: int, share: Callable[..., float], size: int
) -> TrackNames:
    """A track after the `times`-th change of a field."""
    primary, *others = names.artists
    step = 1 + int(1000 * share(field, times))
    match field:
        case "length":
            return replace(names, duration_ms=names.duration_ms + 200 + step)
        case "name":
            return replace(names, name=f"{names.name} (Version {times + 1})")
        case "primary_artist":
            return replace(names, artists=((primary + step) % size, *others))
        case "other_artists":
            return replace(names, artists=(primary, (primary + step) % size))
        case "popularity":
            return replace(names, popularity=(names.popularity + 1 + step % 99) % 101)
        case "emptied":
            return replace(names, name="", duration_ms=0)
