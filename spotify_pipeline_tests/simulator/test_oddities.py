"""The odd feed over HTTP: what apps get, and that the ledger records it correctly.

Listeners have fixed ids, because their plays and oddities depend on them.
"""

import datetime as dt
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from spotify_pipeline.simulator.control import LedgerPlay, Listing, Simulator, SimulatorError
from spotify_pipeline.simulator.music.oddities import Oddities, Restamp, TrackChange
from spotify_pipeline_tests.simulator.conftest import NOON, ListenerClient

AddListener = Callable[..., ListenerClient]
Item = dict[str, Any]
DAY = dt.timedelta(days=1)
HOUR = dt.timedelta(hours=1)


def items(listener: ListenerClient) -> list[Item]:
    answer = listener.recently(limit=50)
    assert answer.status_code == 200
    shown: list[Item] = answer.json()["items"]
    return shown


def listing(item: Item) -> Listing:
    track = item["track"]
    return Listing(dt.datetime.fromisoformat(item["played_at"]), track["id"], track["duration_ms"])


def ledger_of(listener: ListenerClient) -> list[LedgerPlay]:
    return listener.simulator.ledger(listener.user_id, listener.simulator.now() - 14 * DAY)


def test_the_ledger_lists_every_instant_under_which_a_play_was_served(
    simulator: Simulator, add_listener: AddListener
) -> None:
    odd = Oddities(restamps=(Restamp(NOON + HOUR), Restamp(NOON + 2 * HOUR)))
    listener = add_listener("odd-ada", oddities=odd)
    pages = []
    for hours in range(3):
        simulator.set_clock(NOON + hours * HOUR)
        pages.append([listing(item) for item in items(listener)])
    thrice = [play for play in ledger_of(listener) if len(play.served_as) == 3]
    assert len(thrice) > 30
    for play in thrice:
        assert all(shown in page for shown, page in zip(play.served_as, pages, strict=True))
        assert play.served_as[0].played_at == play.played_at
        assert play.visible_as == play.served_as[2:]
        assert {shown.track_id for shown in play.served_as} == {play.track_id}
    instants = [{shown.played_at for shown in page} for page in pages]
    assert all(play.played_at not in instants[1] | instants[2] for play in thrice)


def test_a_relinked_play_keeps_isrc_name_and_primary_artist(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener("odd-bea", oddities=Oddities(relinked=0.5))
    page = items(listener)
    by_id = {
        (play.played_at, shown.track_id): play
        for play in ledger_of(listener)
        for shown in play.served_as
    }
    both = Counter(item["played_at"] for item in page)
    assert 2 in both.values()
    relinked = 0
    for item in page:
        shown, track = listing(item), item["track"]
        play = by_id[shown.played_at, shown.track_id]
        assert track["external_ids"]["isrc"] == play.isrc
        assert (track["name"], track["artists"][0]["id"]) == (play.track_name, play.artist_id)
        assert track["uri"] == f"spotify:track:{track['id']}"
        assert track["href"].endswith(track["id"])
        assert track["external_urls"]["spotify"].endswith(track["id"])
        relinked += shown.track_id != play.track_id
    assert relinked > 5


def test_plays_of_one_instant_change_their_order_from_call_to_call(
    add_listener: AddListener,
) -> None:
    listener = add_listener("odd-cai", oddities=Oddities(same_instant=0.3, relinked=0.3))
    pages = [[listing(item) for item in items(listener)] for _ in range(8)]
    assert len({tuple(page) for page in pages}) == 2
    assert len({frozenset(page) for page in pages}) == 1


def test_recently_played_and_top_tracks_hold_the_isrc_of_the_recording(
    add_listener: AddListener,
) -> None:
    listener = add_listener("odd-dov")
    isrcs = {play.track_id: play.isrc for play in ledger_of(listener)}
    for item in items(listener):
        assert item["track"]["external_ids"] == {"isrc": isrcs[item["track"]["id"]]}
    top = listener.get("/v1/me/top/tracks?time_range=short_term&limit=50").json()["items"]
    known = [track for track in top if track["id"] in isrcs]
    assert known
    assert all(track["external_ids"]["isrc"] == isrcs[track["id"]] for track in known)


def test_a_changed_catalogue_shows_in_plays_and_top_tracks_of_that_listener_only(
    simulator: Simulator, add_listener: AddListener
) -> None:
    change = TrackChange(
        NOON + HOUR, fields=("length", "name", "primary_artist", "other_artists", "popularity")
    )
    listener = add_listener("odd-eda", oddities=Oddities(changes=(change,)), shape="full", seed=8)
    top = "/v1/me/top/tracks?limit=50"
    before, top_before = items(listener), listener.get(top).json()["items"]
    simulator.advance(HOUR)
    after = {item["played_at"]: item for item in items(listener)}
    pairs = [
        (item["track"], after[item["played_at"]]["track"])
        for item in before
        if item["played_at"] in after
    ]
    assert len(pairs) > 30
    pairs += zip(top_before, listener.get(top).json()["items"], strict=True)
    for old, new in pairs:
        assert old["id"] == new["id"]
        assert old["external_ids"] == new["external_ids"]
        for field in ("duration_ms", "name", "popularity", "artists"):
            assert old[field] != new[field], field
        assert old["artists"][0]["id"] != new["artists"][0]["id"]
    true_lengths = {play.played_at: play.duration_ms for play in ledger_of(listener)}
    assert all(
        true_lengths[listing(item).played_at] == item["track"]["duration_ms"] for item in before
    )
    listener.simulator.set_oddities(listener.user_id, Oddities())
    assert {item["played_at"]: item for item in items(listener)}[before[0]["played_at"]] == before[
        0
    ]


def test_emptied_tracks_are_empty_for_one_listener_and_whole_for_another(
    simulator: Simulator, add_listener: AddListener
) -> None:
    emptied = TrackChange(NOON + HOUR, fields=("emptied",))
    listener, other = (
        add_listener("odd-finn", oddities=Oddities(changes=(emptied,))),
        add_listener("odd-gus"),
    )
    whole = {item["track"]["id"] for item in items(listener)}
    simulator.advance(HOUR)
    for item in items(listener):
        assert (item["track"]["name"], item["track"]["duration_ms"]) == ("", 0)
        assert item["track"]["artists"]
    assert whole & {item["track"]["id"] for item in items(listener)}
    for item in items(other):
        assert item["track"]["name"]
        assert item["track"]["duration_ms"]


def test_a_single_track_can_be_empty(simulator: Simulator, add_listener: AddListener) -> None:
    listener = add_listener("odd-hal")
    track = items(listener)[0]["track"]
    change = TrackChange(NOON, fields=("emptied",), track_id=track["id"])
    simulator.set_oddities(listener.user_id, Oddities(changes=(change,)))
    for item in items(listener):
        assert (item["track"]["name"] == "") == (item["track"]["id"] == track["id"])
    simulator.set_oddities(listener.user_id, Oddities())
    assert items(listener)[0]["track"] == track


def test_the_ledger_calls_only_plays_of_the_last_seven_days_visible(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener("odd-ida", kind="light", seed=4)
    short = 0
    for _ in range(30):
        now = simulator.advance(DAY)
        page = [listing(item) for item in items(listener)]
        plays = [play for play in ledger_of(listener) if play.visible]
        assert [play.played_at for play in reversed(plays)] == [shown.played_at for shown in page]
        assert all(play.played_at > now - 7 * DAY for play in plays)
        short += len(page) < 20
    assert short
    simulator.set_oddities(listener.user_id, Oddities(seven_days=False))
    assert len(items(listener)) == 50


def test_the_ledger_marks_missing_and_vanished_plays_and_gives_the_time_heard(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener(
        "odd-jon",
        oddities=Oddities(vanishing=0.2, skipped_missing=0.5, short_tracks=0.1, offline=0.2),
    )
    for _ in range(8):
        items(listener)
        simulator.advance(6 * HOUR)
    plays = ledger_of(listener)
    for play in plays:
        assert play.heard_ms == (play.played_at - play.started_at) / dt.timedelta(milliseconds=1)
        assert 0 < play.heard_ms <= play.duration_ms
        assert not (play.missing and (play.published or play.served or play.visible))
        assert not (play.vanished and play.visible)
        assert play.served == bool(play.served_as)
        assert play.visible == bool(play.visible_as)
        if play.missing:
            assert 30_000 <= play.heard_ms < play.duration_ms
    assert any(play.missing for play in plays)
    assert any(play.vanished and play.served for play in plays)
    assert any(play.heard_ms < 30_000 and play.served for play in plays)
    assert any(play.served and play.served_as[0].played_at > play.played_at for play in plays)


@pytest.mark.parametrize("kind", ["heavy", "light"])
def test_with_every_oddity_on_the_ledger_explains_every_item_of_every_page(
    simulator: Simulator, add_listener: AddListener, kind: str
) -> None:
    odd = Oddities.everything(NOON + 2 * DAY)
    listener = add_listener("odd-kim", kind=kind, oddities=odd, longest_delay=6 * HOUR)
    served: set[tuple[dt.datetime, str]] = set()
    for _ in range(24):
        page = [listing(item) for item in items(listener)]
        visible = [shown for play in ledger_of(listener) for shown in play.visible_as]
        assert Counter(page) == Counter(visible)
        served |= {(shown.played_at, shown.track_id) for shown in page}
        simulator.advance(9 * HOUR)
    plays = simulator.ledger(listener.user_id, NOON - 20 * DAY)
    explained = [(s.played_at, s.track_id) for play in plays for s in play.served_as]
    assert Counter(explained) == Counter(served)
    if kind == "heavy":
        assert any(len({s.track_id for s in play.served_as}) == 2 for play in plays)
        assert any(len({s.played_at for s in play.served_as}) == 2 for play in plays)


def test_the_ledger_as_of_an_instant_is_what_a_call_then_was_served(
    simulator: Simulator, add_listener: AddListener
) -> None:
    odd = Oddities.everything(NOON + HOUR)
    listener = add_listener("odd-lea", oddities=odd, longest_delay=6 * HOUR)
    pages = {}
    for _ in range(6):
        pages[simulator.now()] = [listing(item) for item in items(listener)]
        simulator.advance(8 * HOUR)
    for at, page in pages.items():
        plays = simulator.ledger(listener.user_id, at - 8 * DAY, at=at)
        assert Counter(page) == Counter(shown for play in plays for shown in play.visible_as)
        assert all(play.played_at <= at for play in plays)
    future = simulator.ledger(listener.user_id, at=simulator.now() + DAY)
    assert future == simulator.ledger(listener.user_id)


def test_the_same_seed_serves_the_same_odd_pages(
    simulator: Simulator, add_listener: AddListener
) -> None:
    def serve() -> list[list[Item]]:
        simulator.set_clock(NOON)
        listener = add_listener("twice-the-same", oddities=Oddities.everything(NOON + HOUR))
        pages = []
        for _ in range(4):
            pages.append(items(listener))
            simulator.advance(HOUR)
        return pages

    assert serve() == serve()


def test_wrong_oddities_are_refused_with_a_sentence(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener("odd-max")
    odd = Oddities()
    object.__setattr__(odd, "vanishing", 2.0)
    with pytest.raises(SimulatorError, match=r"vanishing = 2\.0: .* less than or equal to 1"):
        simulator.set_oddities(listener.user_id, odd)
    with pytest.raises(SimulatorError, match="there is no 'nobody'"):
        simulator.set_oddities("nobody", Oddities())
