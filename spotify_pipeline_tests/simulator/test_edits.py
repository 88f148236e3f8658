"""Faults that change successful pages."""

import datetime as dt
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline.simulator.faults import edits
from spotify_pipeline_tests.simulator.checks import check_plays
from spotify_pipeline_tests.simulator.conftest import NOON, ListenerClient

AddListener = Callable[..., ListenerClient]
Json = dict[str, Any]


def pages(
    simulator: Simulator,
    listener: ListenerClient,
    fault: edits.Edits,
    path: str = "player/recently-played",
) -> tuple[Json, Json]:
    """The same page without the fault and with it."""
    good = listener.get(f"/v1/me/{path}?limit=50").json()
    simulator.add_fault(fault, user_id=listener.user_id)
    answer = listener.get(f"/v1/me/{path}?limit=50")
    assert answer.status_code == 200
    simulator.clear_faults()
    assert listener.get(f"/v1/me/{path}?limit=50").json() == good
    return good, answer.json()


@pytest.mark.parametrize("path", ["player/recently-played", "top/artists", "top/tracks"])
def test_hostile_text_is_served_unchanged(
    simulator: Simulator, add_listener: AddListener, path: str
) -> None:
    _, odd = pages(simulator, add_listener(), edits.OddText(), path)
    names = {item.get("track", item)["name"] for item in odd["items"]}
    assert names == set(edits.ODD_TEXTS)
    assert any("\x00" in name for name in names)
    assert any("\ud83d" in name for name in names)


def test_a_page_can_suddenly_be_empty(simulator: Simulator, add_listener: AddListener) -> None:
    _, plays = pages(simulator, add_listener(), edits.EmptyPage())
    check_plays(plays)
    assert plays["items"] == []
    _, top = pages(simulator, add_listener(), edits.EmptyPage(), "top/artists")
    assert (top["items"], top["total"]) == ([], 0)


@pytest.mark.parametrize(
    "fault",
    [
        edits.Put((), "a text"),
        edits.Put(("items",), None),
        edits.Put(("items", 0), 17),
        edits.Put(("items", 0, "track", "duration_ms"), "long"),
    ],
)
def test_a_fault_can_replace_any_field_by_any_value(
    simulator: Simulator, add_listener: AddListener, fault: edits.Put
) -> None:
    _, odd = pages(simulator, add_listener(), fault)
    for step in fault.path:
        odd = odd[step]
    assert odd == fault.value


def test_a_field_can_be_missing(simulator: Simulator, add_listener: AddListener) -> None:
    good, odd = pages(
        simulator, add_listener(), edits.Put(("items", 1, "track", "album"), drop=True)
    )
    assert set(good["items"][1]["track"]) - set(odd["items"][1]["track"]) == {"album"}


def test_unreadable_items_do_not_count_as_served(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener()
    listener.get("/v1/me")
    for number in range(25):
        simulator.add_fault(edits.Put(("items", 2 * number, "track"), None))
    readable = [item for item in listener.recently(limit=50).json()["items"] if item["track"]]
    assert len(readable) == 25
    served = [line for line in simulator.ledger(listener.user_id) if line.served]
    assert {line.track_id for line in served} == {item["track"]["id"] for item in readable}
    assert len(served) == 25


def test_late_plays_fill_in_out_of_order(simulator: Simulator, add_listener: AddListener) -> None:
    listener = add_listener(longest_delay=dt.timedelta(hours=12))
    seen: list[set[str]] = []
    for hour in range(12):
        simulator.set_clock(NOON + dt.timedelta(hours=hour))
        seen.append({item["played_at"] for item in listener.recently(limit=50).json()["items"]})
    late = [
        played_at
        for before, after in pairwise(seen)
        for played_at in after - before
        if played_at < max(before)
    ]
    assert late
    for line in simulator.ledger(listener.user_id, NOON - dt.timedelta(days=3)):
        assert line.played_at <= line.published_at
        assert line.published == (line.published_at <= simulator.now())
        assert line.published or not line.visible


def test_a_refresh_token_can_rotate_and_the_old_one_is_revoked(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener()
    simulator.add_fault(edits.RotateRefreshToken(), times=1)
    rotated = listener.refresh().json()["refresh_token"]
    assert listener.refresh().json()["error_description"] == "Refresh token revoked"
    answer = listener.refresh(refresh_token=rotated)
    assert answer.status_code == 200
    assert "refresh_token" not in answer.json()
    listed = {one.user_id: one.refresh_token for one in simulator.listeners()}
    assert listed[listener.user_id] == rotated


@pytest.mark.parametrize("value", [None, ""])
def test_a_refresh_can_bring_no_usable_refresh_token(
    simulator: Simulator, add_listener: AddListener, value: str | None
) -> None:
    listener = add_listener()
    simulator.add_fault(edits.NullRefreshToken(value))
    assert listener.refresh().json()["refresh_token"] == value
    assert listener.refresh().status_code == 200
