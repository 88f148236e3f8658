"""Deduplication: relinked and re-stamped items are recognised, genuine repeats are kept."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotify_pipeline.domain.listening.recordings import (
    PageMatch,
    Recording,
    StoredPlay,
    match_page,
)
from spotify_pipeline.domain.model import Play, Track
from spotify_pipeline_tests.domain.builders import utc

START = utc("2026-05-26 16:00")
TRACKS = {
    "song": Track("song", "Song", 200_000, ("ann",), isrc="X1"),
    "song again": Track("song again", "Song (remaster)", 201_000, ("ann",), isrc="X1"),
    "song by name": Track("song by name", "Song", 200_000, ("ann",)),
    "cover": Track("cover", "Song", 200_000, ("bob",), isrc="X2"),
    "other": Track("other", "Other", 200_000, ("ann",), isrc="X3"),
    "empty": Track("empty", "", None, ("ann",)),
    "empty too": Track("empty too", "", None, ("ann",)),
}


def at(second: float):
    return START + timedelta(seconds=second)


def stored(*plays: tuple[float, str], shown: float | None = None) -> list[StoredPlay]:
    return [
        StoredPlay(
            at(second),
            Recording.of(TRACKS[track]),
            (at(second), *([at(shown)] if shown is not None else [])),
        )
        for second, track in plays
    ]


def match(items: list[tuple[float, str]], known: list[StoredPlay], since: float) -> PageMatch:
    plays = [Play(at(second), track) for second, track in items]
    return match_page(plays, TRACKS, known, at(since))


def moved(result: PageMatch) -> list[tuple[float, float]]:
    """(shown, stored) in seconds."""
    return [
        (
            (item.play.played_at - START).total_seconds(),
            (item.stored.played_at - START).total_seconds(),
        )
        for item in result.restamped
    ]


@pytest.mark.parametrize("shift", [-60, -31, -0.8, 0.001, 55.7, 60])
def test_a_vanished_play_under_another_instant_is_the_same_play(shift):
    result = match([(500 + shift, "song")], stored((500, "song")), since=0)
    assert (result.new, moved(result)) == ((), [(500 + shift, 500)])
    assert result.seen == {at(500 + shift)}
    assert result.not_shown == frozenset()


@pytest.mark.parametrize("shift", [-60.001, 60.001, 300])
def test_a_recording_more_than_a_minute_away_is_another_play(shift):
    result = match([(500 + shift, "song")], stored((500, "song")), since=0)
    assert len(result.new) == 1
    assert result.not_shown == {at(500)}


def test_items_beside_a_play_that_is_still_on_the_page_are_plays():
    result = match([(500, "song"), (540, "song")], stored((500, "song")), since=0)
    assert [play.played_at for play in result.new] == [at(540)]
    assert result.restamped == ()


def test_a_stored_play_matches_one_item_of_a_page_at_most():
    result = match([(490, "song"), (510, "song")], stored((500, "song")), since=0)
    assert (len(result.new), len(result.restamped)) == (1, 1)


@pytest.mark.parametrize("track", ["song again", "song by name"])
def test_a_relinked_item_is_the_stored_play_at_the_same_and_at_another_instant(track):
    for second in (500, 480):
        result = match([(second, track)], stored((500, "song")), since=0)
        assert result.new == ()


@pytest.mark.parametrize(("track", "known"), [("cover", "song"), ("empty", "empty too")])
def test_a_play_of_another_recording_is_never_a_match(track, known):
    for second in (500, 480):
        result = match([(second, track)], stored((500, known)), since=0)
        assert (len(result.new), result.restamped) == (1, ())


def test_a_completely_restamped_page_has_no_new_play():
    known = stored(*((200 * n, "song" if n % 3 else "other") for n in range(20)))
    items = [(200 * n - 13, "song" if n % 3 else "other") for n in range(20)]
    result = match(items, known, since=-13)
    assert (result.new, len(result.restamped)) == ((), 20)


def test_a_restamped_loop_of_short_plays_has_no_new_play():
    known = stored(*((40 * n, "song") for n in range(20)))
    result = match([(40 * n - 25, "song") for n in range(20)], known, since=-25)
    assert (result.new, len(result.restamped)) == ((), 20)


def test_the_oldest_play_of_a_restamped_page_may_have_moved_later():
    known = stored((0, "other"), (300, "song"), (600, "cover"))
    result = match([(55.7, "other"), (290, "song"), (590, "cover")], known, since=55.7)
    assert (result.new, len(result.restamped)) == ((), 3)


def test_a_play_before_the_page_is_not_its_first_item_if_no_play_was_restamped():
    result = match([(40, "song"), (300, "other")], stored((0, "song"), (300, "other")), since=40)
    assert [play.played_at for play in result.new] == [at(40)]


def test_a_restamped_play_matches_its_latest_instant_and_can_move_again():
    known = stored((500, "song"), shown=450)
    again = match([(450, "song")], known, since=450)
    assert (again.new, again.restamped, again.seen) == ((), (), {at(450)})
    further = match([(400, "song")], known, since=0)
    assert moved(further) == [(400, 500)]
    back = match([(500, "song")], known, since=0)
    assert (back.new, back.restamped) == ((), ())


def test_a_play_restamped_back_to_its_instant_can_move_again():
    result = match([(550, "song")], stored((500, "song"), shown=450), since=0)
    assert moved(result) == [(550, 500)]


def test_plays_that_only_vanish_are_reported_with_the_instant_last_shown():
    result = match([], stored((500, "song"), shown=450), since=0)
    assert result.not_shown == {at(450)}


_seconds = st.lists(st.integers(0, 4000), max_size=30, unique=True).map(sorted)


@given(_seconds, st.sampled_from([-31.0, -13.5, -0.8, 20.0, 55.7]), st.data())
def test_no_restamped_play_counts_twice_and_no_neighbour_is_lost(seconds, shift, data):
    tracks = [data.draw(st.sampled_from(["song", "other", "cover"])) for _ in seconds]
    life = list(zip(map(float, seconds), tracks, strict=True))
    later = [(5000.0 + 100 * n, "song") for n in range(data.draw(st.integers(0, 3)))]
    items = [(second + shift, track) for second, track in life] + later
    result = match(items, stored(*life), since=-4000)
    assert [play.played_at for play in result.new] == [at(second) for second, _ in later]
    assert len({item.stored for item in result.restamped}) == len(result.restamped)
