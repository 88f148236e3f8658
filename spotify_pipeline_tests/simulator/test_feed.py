"""The feed as a pure function: without oddities, with each alone, and with all."""

import datetime as dt
from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from pydantic import TypeAdapter, ValidationError

from spotify_pipeline.simulator.music.catalogue import Catalogue
from spotify_pipeline.simulator.music.feed import (
    DAY_MS,
    HOUR_MS,
    STRETCH_MS,
    WEEK_MS,
    WINDOW,
    Entry,
    Feed,
    Item,
)
from spotify_pipeline.simulator.music.listeners import LISTENER_KINDS, Listener, to_ms
from spotify_pipeline.simulator.music.oddities import CHANGES, Oddities, Restamp, TrackChange

NOON = dt.datetime(2026, 3, 4, 12, tzinfo=dt.UTC)
NOW = to_ms(NOON)
CATALOGUE = Catalogue(5)
ODDITIES = TypeAdapter(Oddities)


def feed(oddities: Oddities | None = None, kind: str = "heavy", longest_delay_ms: int = 0) -> Feed:
    listener = Listener(CATALOGUE, 5, "somebody", "Europe/Oslo", LISTENER_KINDS[kind])
    return Feed(listener, oddities or Oddities(), longest_delay_ms)


def page(of: Feed, now_ms: int = NOW) -> list[Item]:
    return of.window(now_ms)[0]


def week(of: Feed, now_ms: int = NOW) -> list[Entry]:
    return of.entries(now_ms - WEEK_MS, now_ms)


def hours(count: int, step: int = 1) -> range:
    return range(NOW, NOW + count * HOUR_MS, step * HOUR_MS)


def test_without_oddities_the_feed_lists_the_last_50_true_plays_in_order() -> None:
    ideal = feed(Oddities(seven_days=False))
    for now_ms in hours(48, 5):
        plays = ideal.listener.plays(now_ms - WEEK_MS, now_ms)
        assert page(ideal, now_ms) == [Item(play, play.end_ms) for play in plays[:-51:-1]]
        assert page(feed(), now_ms) == page(ideal, now_ms)


def test_only_plays_of_the_last_seven_days_are_listed() -> None:
    quiet, unlimited = feed(kind="light"), feed(Oddities(seven_days=False), "light")
    sizes = []
    for now_ms in hours(24 * 60, 12):
        items, older = quiet.window(now_ms)
        assert all(item.stamp_ms > now_ms - WEEK_MS for item in items)
        assert items == page(unlimited, now_ms)[: len(items)]
        assert older == (len(quiet.listener.plays(now_ms - WEEK_MS, now_ms)) > WINDOW)
        assert len(page(unlimited, now_ms)) == WINDOW
        sizes.append(len(items))
    assert min(sizes) == 0
    assert max(sizes) > 20


def test_a_restamping_moves_the_plays_of_the_window_and_none_after_it() -> None:
    restamped = feed(Oddities(restamps=(Restamp(NOON),)))
    before, after = page(feed()), page(restamped)
    assert page(restamped, NOW - 1) == page(feed(), NOW - 1)
    shifts = [new.stamp_ms - old.stamp_ms for old, new in zip(before, after, strict=True)]
    assert [item.play for item in before] == [item.play for item in after]
    assert all(-31_000 <= shift <= -800 or 31_000 <= shift <= 56_000 for shift in shifts)
    assert not {item.stamp_ms for item in before} & {item.stamp_ms for item in after}
    later = page(restamped, NOW + 12 * HOUR_MS)
    assert any(item.play.end_ms > NOW for item in later)
    for item in later:
        assert (item.stamp_ms == item.play.end_ms) == (item.play.end_ms > NOW)


def test_a_restamping_moves_a_few_plays_forward_and_most_back() -> None:
    restamped = feed(Oddities(restamps=(Restamp(NOON - dt.timedelta(days=99), dt.timedelta(7)),)))
    shifts = [
        entry.stamp_ms - entry.first_ms for entry in restamped.entries(NOW - 99 * DAY_MS, NOW)
    ]
    ahead = sum(shift > 0 for shift in shifts) / len(shifts)
    assert 0.01 < ahead < 0.05  # 1 of 39


def test_a_restamping_can_move_only_the_last_plays() -> None:
    restamped = feed(Oddities(restamps=(Restamp(NOON, last=5),)))
    moved = [entry.stamp_ms != entry.first_ms for entry in week(restamped)]
    assert moved == [False] * (len(moved) - 5) + [True] * 5


def test_a_second_restamping_moves_plays_again() -> None:
    again = NOON + dt.timedelta(hours=3)
    once, twice = (
        feed(Oddities(restamps=(Restamp(NOON),))),
        feed(Oddities(restamps=(Restamp(NOON), Restamp(again)))),
    )
    now_ms = to_ms(again)
    first = {entry.play: entry.stamp_ms for entry in week(once, now_ms)}
    second = {entry.play: entry.stamp_ms for entry in week(twice, now_ms)}
    assert all(second[play] not in (first[play], play.end_ms) for play in first)
    repeated = Restamp(NOON, dt.timedelta(hours=3))
    assert week(feed(Oddities(restamps=(repeated,))), now_ms) == week(twice, now_ms)


def test_vanishing_plays_are_served_for_hours_only() -> None:
    odd = feed(Oddities(vanishing=0.1))
    entries = odd.entries(NOW - 9 * DAY_MS, NOW - 4 * DAY_MS)
    vanishing = [entry for entry in entries if entry.gone_ms is not None]
    assert 0.05 < len(vanishing) / len(entries) < 0.17
    for entry in vanishing:
        assert entry.gone_ms is not None
        assert 2 * HOUR_MS <= entry.gone_ms - entry.listed_ms <= 48 * HOUR_MS
        assert entry.listed(entry.gone_ms - 1)
        assert entry.play in [item.play for item in page(odd, entry.listed_ms)]
        assert entry.play not in [item.play for item in page(odd, entry.gone_ms)]


def test_two_different_songs_share_a_millisecond_and_change_their_order() -> None:
    odd = feed(Oddities(same_instant=0.2))
    items = page(odd)
    at = defaultdict(list)
    for item in items:
        at[item.stamp_ms].append(item.play.track)
    pairs = [tracks for tracks in at.values() if len(tracks) > 1]
    assert len(pairs) >= 3
    assert all(len(tracks) == 2 and tracks[0] != tracks[1] for tracks in pairs)
    orders = {tuple(odd.in_order_of_call(items, call)) for call in range(10)}
    assert len(orders) == 2
    for order in orders:
        assert set(order) == set(items)
        assert [item.stamp_ms for item in order] == [item.stamp_ms for item in items]


def test_a_relinked_play_is_listed_under_one_id_the_other_or_both() -> None:
    odd = feed(Oddities(relinked=0.3))
    seen = defaultdict(set)
    for now_ms in hours(24):
        versions = defaultdict(list)
        for item in page(odd, now_ms):
            versions[item.play, item.stamp_ms].append(item.relinked)
        for (play, _), shown in versions.items():
            seen[play].add(tuple(shown))
    assert {shown for shapes in seen.values() for shown in shapes} == {
        (False,),
        (True,),
        (False, True),
    }
    assert any(len(shapes) == 3 for shapes in seen.values())
    always_first = sum(shapes == {(False,)} for shapes in seen.values())
    assert 0.5 < always_first / len(seen) < 0.95


def test_a_relinked_track_differs_only_in_its_id() -> None:
    track = page(feed())[0].play.track
    first, second = feed().track(track, NOW), feed().track(track, NOW, relinked=True)
    assert first.spotify_id != second.spotify_id
    assert (first.isrc, first.name, first.artists) == (second.isrc, second.name, second.artists)
    assert first == CATALOGUE.track(track)


def test_offline_plays_arrive_at_once_stamped_within_seconds() -> None:
    odd = feed(Oddities(offline=0.4))
    bursts = defaultdict(list)
    for entry in week(odd):
        late_ms = entry.first_ms - entry.play.end_ms
        if late_ms:
            bursts[(entry.play.end_ms - 1) // STRETCH_MS].append(entry)
            assert 0 < late_ms < 2.1 * HOUR_MS
            assert entry.listed_ms == entry.first_ms
    assert max(map(len, bursts.values())) >= 10
    for burst in bursts.values():
        stamps = [entry.first_ms for entry in burst]
        assert all(40 <= after - before < 740 for before, after in pairwise(stamps))
    largest = max(bursts.values(), key=len)
    arrival = largest[-1].first_ms
    plays = {entry.play for entry in largest}
    assert not plays & {item.play for item in page(odd, largest[0].first_ms - 1)}
    assert plays <= {item.play for item in page(odd, arrival)}


@pytest.mark.parametrize("field", CHANGES)
def test_a_change_of_the_catalogue_changes_one_field_from_an_instant_on(field: str) -> None:
    odd = feed(Oddities(changes=(TrackChange(NOON, fields=(field,)),)))  # type: ignore[arg-type]
    track = page(odd)[0].play.track
    before, after = odd.track(track, NOW - 1), odd.track(track, NOW)
    assert before == CATALOGUE.track(track)
    changed = {name for name in before.__slots__ if getattr(before, name) != getattr(after, name)}
    expected = {
        "length": {"duration_ms"},
        "name": {"name"},
        "primary_artist": {"artists"},
        "other_artists": {"artists"},
        "popularity": {"popularity"},
        "emptied": {"name", "duration_ms"},
    }
    assert changed == expected[field]
    assert (before.artists[0] == after.artists[0]) == (field != "primary_artist")
    if field == "emptied":
        assert (after.name, after.duration_ms) == ("", 0)


def test_a_change_can_hit_one_track_a_share_of_tracks_or_come_again() -> None:
    tracks = [item.play.track for item in page(feed())]
    one = CATALOGUE.track(tracks[0]).spotify_id

    def changed(change: TrackChange, now_ms: int) -> dict[int, int]:
        odd = feed(Oddities(changes=(change,)))
        lengths = {track: odd.track(track, now_ms).duration_ms for track in tracks}
        return {
            track: length
            for track, length in lengths.items()
            if length != CATALOGUE.duration_ms(track)
        }

    assert set(changed(TrackChange(NOON, track_id=one), NOW)) == {tracks[0]}
    share = changed(TrackChange(NOON, share=0.3), NOW)
    assert 0.1 < len(share) / len(set(tracks)) < 0.5
    again = changed(TrackChange(NOON, dt.timedelta(days=1), share=0.3), NOW + DAY_MS)
    assert set(again) == set(share)
    assert all(again[track] != share[track] for track in share)


def test_in_some_hours_a_full_page_lacks_one_play() -> None:
    odd = feed(Oddities(pages_of_49=0.3))
    sizes: Counter[int] = Counter()
    for now_ms in hours(60):
        items, older = odd.window(now_ms)
        sizes[len(items)] += 1
        assert older
        missing = set(page(feed(), now_ms)) - set(items)
        assert len(missing) == WINDOW - len(items)
    assert set(sizes) == {49, 50}
    assert 0.15 < sizes[49] / sizes.total() < 0.45


def test_a_share_of_the_plays_ended_with_next_is_never_listed() -> None:
    odd = feed(Oddities(skipped_missing=0.5))
    entries = week(odd)
    skipped = [
        entry
        for entry in entries
        if entry.play.end_ms - entry.play.start_ms < odd.duration_ms(entry.play.track)
    ]
    missing = [entry for entry in entries if entry.missing]
    assert {entry.play for entry in missing} <= {entry.play for entry in skipped}
    assert 0.3 < len(missing) / len(skipped) < 0.7
    listed = [item.play for item in page(odd)]
    assert len(listed) == WINDOW
    assert not set(listed) & {entry.play for entry in missing}


def test_short_tracks_that_ended_by_themselves_are_listed() -> None:
    odd = feed(Oddities(short_tracks=0.1))
    short = [entry for entry in week(odd) if odd.duration_ms(entry.play.track) < 30_000]
    assert len(short) > 10
    for entry in short:
        assert 8_000 <= entry.play.end_ms - entry.play.start_ms == odd.duration_ms(entry.play.track)
        assert odd.track(entry.play.track, NOW).duration_ms == odd.duration_ms(entry.play.track)
        assert entry.listed(NOW)
    assert any(odd.duration_ms(item.play.track) < 30_000 for item in page(odd))


@pytest.mark.parametrize("longest_delay_ms", [0, 5 * HOUR_MS])
def test_entries_do_not_depend_on_the_interval_asked_for(longest_delay_ms: int) -> None:
    odd = feed(Oddities.everything(), longest_delay_ms=longest_delay_ms)
    whole = odd.entries(NOW - 20 * DAY_MS, NOW)
    assert whole == feed(Oddities.everything(), longest_delay_ms=longest_delay_ms).entries(
        NOW - 20 * DAY_MS, NOW
    )
    for ago in range(1, 20 * 24, 17):
        from_ms = NOW - ago * HOUR_MS
        part = odd.entries(from_ms, NOW)
        assert part == [entry for entry in whole if entry.play.end_ms > from_ms]


def test_the_window_holds_the_last_items_of_all_entries() -> None:
    odd = feed(Oddities.everything(), longest_delay_ms=5 * HOUR_MS)
    for now_ms in hours(24 * 8, 11):
        entries = {entry.play: entry for entry in odd.entries(now_ms - 9 * DAY_MS, now_ms)}
        items, older = odd.window(now_ms)
        assert older
        assert len(items) in (WINDOW - 1, WINDOW)
        for item in items:
            assert entries[item.play].listed(now_ms)
            assert entries[item.play].stamp_ms == item.stamp_ms
        shown = {item.play for item in items}
        oldest_ms = items[-1].stamp_ms
        left_out = [
            entry
            for play, entry in entries.items()
            if play not in shown and entry.listed(now_ms) and entry.stamp_ms > oldest_ms
        ]
        assert len(left_out) <= WINDOW - len(items)


def test_no_recording_is_listed_twice_at_one_instant() -> None:
    odd = feed(Oddities.everything())
    for now_ms in hours(24 * 8, 5):
        places = [
            (entry.stamp_ms, entry.play.track)
            for entry in odd.entries(now_ms - WEEK_MS, now_ms)
            if entry.listed(now_ms)
        ]
        assert len(places) == len(set(places))


@pytest.mark.parametrize(
    "oddities", [Oddities(), Oddities.everything(), Oddities(False, (Restamp(NOON, last=3),))]
)
def test_oddities_survive_their_json_form(oddities: Oddities) -> None:
    assert ODDITIES.validate_json(ODDITIES.dump_json(oddities)) == oddities
    assert ODDITIES.validate_python({}) == Oddities()


@pytest.mark.parametrize(
    "wrong",
    [
        {"vanishing": 1.5},
        {"same_instant": 0.6},
        {"unheard_of": 1},
        {"restamps": [{"at": "2026-03-04T12:00:00"}]},
        {"restamps": [{"at": "2026-03-04T12:00:00Z", "last": 0}]},
        {"restamps": [{"at": "2026-03-04T12:00:00Z", "every": 0}]},
        {"changes": [{"at": "2026-03-04T12:00:00Z", "fields": ["colour"]}]},
    ],
)
def test_wrong_oddities_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ODDITIES.validate_python(wrong)
