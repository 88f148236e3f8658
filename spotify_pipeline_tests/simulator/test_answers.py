"""The simulator's responses equal Spotify's."""

import datetime as dt
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import requests

from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline_tests.simulator.checks import (
    BASE_62,
    check_artist,
    check_page,
    check_plays,
    check_track,
)
from spotify_pipeline_tests.simulator.conftest import NOON, ListenerClient

AddListener = Callable[..., ListenerClient]
DAY = dt.timedelta(days=1)


def ms(text: str) -> int:
    return round(dt.datetime.fromisoformat(text).timestamp() * 1000)


def times(answer: requests.Response) -> list[str]:
    return [item["played_at"] for item in answer.json()["items"]]


@pytest.mark.parametrize("shape", ["development", "full"])
def test_recently_played_has_the_fields_of_the_app_s_mode(
    add_listener: AddListener, shape: str
) -> None:
    answer = add_listener(shape=shape).recently(limit=50)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    check_plays(answer.json(), full=shape == "full")
    assert len(answer.json()["items"]) == 50


@pytest.mark.parametrize("shape", ["development", "full"])
@pytest.mark.parametrize("time_range", ["short_term", "medium_term", "long_term"])
def test_top_lists_have_the_fields_of_the_app_s_mode(
    add_listener: AddListener, shape: str, time_range: str
) -> None:
    listener = add_listener(shape=shape, kind="commuter")
    for kind, check in (("artists", check_artist), ("tracks", check_track)):
        page = listener.get(f"/v1/me/top/{kind}?time_range={time_range}&limit=50").json()
        check_page(page)
        assert len({item["id"] for item in page["items"]}) == 50
        for item in page["items"]:
            check(item, full=shape == "full")


def test_top_tracks_are_the_listeners_own_most_played(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener(kind="loyalist")
    page = listener.get("/v1/me/top/tracks?time_range=short_term&limit=50").json()
    plays = simulator.ledger(listener.user_id, NOON - 28 * DAY, NOON)
    counts = Counter(play.track_id for play in plays)
    liked = {track for track, _ in counts.most_common(10)}
    assert len(liked & {item["id"] for item in page["items"]}) >= 8


def test_top_lists_are_paged_to_their_end(add_listener: AddListener) -> None:
    listener = add_listener(kind="light")
    url: str | None = "/v1/me/top/artists?time_range=short_term&limit=7"
    seen: list[str] = []
    total = None
    while url:
        page = listener.get(url).json()
        check_page(page)
        seen += [item["id"] for item in page["items"]]
        total, url = page["total"], page["next"]
    assert len(seen) == len(set(seen)) == total


def test_a_new_account_gets_empty_lists(add_listener: AddListener) -> None:
    listener = add_listener(since=dt.date(2026, 4, 1))
    plays = listener.recently(limit=50).json()
    check_plays(plays)
    assert plays["items"] == []
    top = listener.get("/v1/me/top/artists").json()
    check_page(top)
    assert top["items"] == []


def test_me_returns_id_name_and_account_id(add_listener: AddListener) -> None:
    listener = add_listener(display_name="Ayọ̀ 🎧")
    me = listener.get("/v1/me").json()
    assert me["id"] == listener.user_id
    assert me["display_name"] == "Ayọ̀ 🎧"
    assert BASE_62.fullmatch(me["account_id"])
    assert me["account_id"] == listener.info.account_id
    assert not {"email", "country", "product"} & set(me)


def test_only_the_last_50_plays_are_served(simulator: Simulator, add_listener: AddListener) -> None:
    listener = add_listener()
    all_plays = [play.played_at for play in simulator.ledger(listener.user_id)]
    seen: list[str] = []
    url: str | None = "/v1/me/player/recently-played?limit=20"
    pages = 0
    while url:
        answer = listener.get(url)
        check_plays(answer.json())
        seen += times(answer)
        url = answer.json()["next"]
        pages += 1
        assert pages <= 4, "the pages never end"
    assert [dt.datetime.fromisoformat(text) for text in seen] == all_plays[:-51:-1]
    assert pages == 4  # 20, 20, 10, and the empty last page


def test_a_first_week_has_no_next_page(add_listener: AddListener) -> None:
    listener = add_listener(since=dt.date(2026, 3, 4), kind="light", seed=11)
    page = listener.recently(limit=50).json()
    assert len(page["items"]) < 50
    assert page["next"] is None


def test_before_and_after_are_exclusive(add_listener: AddListener) -> None:
    listener = add_listener()
    newest = times(listener.recently(limit=10))
    assert times(listener.recently(limit=50, after=ms(newest[4]))) == newest[:4]
    assert times(listener.recently(limit=5, before=ms(newest[4]))) == newest[5:]
    assert times(listener.recently(after=ms(newest[0]))) == []


def test_cursors_are_the_ends_of_the_page(add_listener: AddListener) -> None:
    page = add_listener().recently(limit=3).json()
    assert page["cursors"] == {
        "after": str(ms(page["items"][0]["played_at"])),
        "before": str(ms(page["items"][-1]["played_at"])),
    }


def test_twenty_items_come_when_no_limit_is_given(add_listener: AddListener) -> None:
    listener = add_listener()
    assert len(times(listener.recently())) == 20
    assert len(listener.get("/v1/me/top/tracks").json()["items"]) == 20


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 51},
        {"limit": "many"},
        {"after": "yesterday"},
        {"before": -1},
        {"after": 1, "before": 2},
    ],
)
def test_a_wrong_query_is_refused(add_listener: AddListener, query: dict[str, Any]) -> None:
    answer = add_listener().recently(**query)
    assert answer.status_code == answer.json()["error"]["status"] == 400
    assert answer.json()["error"]["message"]


def test_an_unknown_time_range_is_refused(add_listener: AddListener) -> None:
    assert add_listener().get("/v1/me/top/tracks?time_range=weekly").status_code == 400


@pytest.mark.parametrize(
    ("authorization", "message"),
    [
        (None, "No token provided"),
        ("Basic abc", "No token provided"),
        ("Bearer nonsense", "Invalid access token"),
    ],
)
def test_a_call_without_a_valid_token_is_refused(
    simulator: Simulator, authorization: str | None, message: str
) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    answer = requests.get(f"{simulator.url}/v1/me", headers=headers, timeout=10)
    assert answer.status_code == 401
    assert answer.json() == {"error": {"status": 401, "message": message}}


def test_an_expired_token_is_refused_and_a_refresh_helps(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener()
    assert listener.get("/v1/me").status_code == 200
    assert simulator.expire_access_tokens(listener.user_id) == 1
    answer = listener.get("/v1/me")
    assert answer.json() == {"error": {"status": 401, "message": "The access token expired"}}
    assert add_listener(listener.user_id).get("/v1/me").status_code == 200


def test_a_missing_scope_is_refused(add_listener: AddListener) -> None:
    listener = add_listener(scopes=["user-read-recently-played"])
    assert listener.recently().status_code == 200
    answer = listener.get("/v1/me/top/tracks")
    assert answer.json() == {"error": {"status": 403, "message": "Insufficient client scope"}}
    assert answer.status_code == 403


def test_a_refresh_brings_an_access_token_for_an_hour_and_keeps_the_old_refresh_token(
    add_listener: AddListener,
) -> None:
    answer = add_listener().refresh()
    assert answer.status_code == 200
    token = answer.json()
    assert set(token) == {"access_token", "token_type", "scope", "expires_in"}
    assert token["expires_in"] == 3600
    assert token["scope"] == "user-read-recently-played user-top-read"


def test_a_public_client_refreshes_with_its_client_id_alone(
    simulator: Simulator, add_listener: AddListener
) -> None:
    form = {
        "grant_type": "refresh_token",
        "refresh_token": add_listener().refresh_token,
        "client_id": simulator.client_id,
    }
    answer = requests.post(f"{simulator.url}/api/token", data=form, timeout=10)
    assert answer.status_code == 200


def test_a_wrong_client_or_refresh_token_is_refused_in_the_flat_form(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener()
    answer = listener.refresh(refresh_token="unknown")
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "invalid_grant",
        "error_description": "Invalid refresh token",
    }
    wrong = requests.post(
        f"{simulator.url}/api/token",
        data={"grant_type": "refresh_token", "refresh_token": listener.refresh_token},
        auth=(simulator.client_id, "wrong"),
        timeout=10,
    )
    assert wrong.status_code == 400
    assert wrong.json() == {"error": "invalid_client", "error_description": "Invalid client"}
    assert listener.refresh(grant_type="password").json()["error"] == "unsupported_grant_type"
