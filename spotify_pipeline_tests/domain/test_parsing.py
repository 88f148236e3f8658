import copy
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotify_pipeline.domain.model import Artist, Play, Profile, TopTrack, Track
from spotify_pipeline.domain.parsing import (
    BadPayload,
    parse_profile,
    parse_recently_played,
    parse_top_artists,
    parse_top_tracks,
)
from spotify_pipeline_tests.domain.builders import utc

NOW = utc("2026-11-20 12:00")
PICTURES = [
    {"url": f"https://i.scdn.co/image/{size}", "width": size, "height": size}
    for size in (640, 300, 64)
]


def artist(spotify_id: object = "a1", **more: object) -> dict[str, object]:
    """The short form of an artist inside tracks."""
    return {"id": spotify_id, "name": f"Artist {spotify_id}", "type": "artist"} | more


def track(spotify_id: object = "t1", **more: object) -> dict[str, object]:
    """A track as apps in development mode get it: no popularity."""
    return {
        "id": spotify_id,
        "name": f"Track {spotify_id}",
        "duration_ms": 201_000,
        "artists": [artist("a1"), artist("a2")],
        "album": {
            "id": "l1",
            "name": "Album",
            "release_date": "2024-05-03",
            "release_date_precision": "day",
            "images": PICTURES,
        },
        "preview_url": None,
        "is_local": False,
    } | more


def item(played_at: object = "2026-11-20T11:00:00.123Z", **more: object) -> dict[str, object]:
    context = {"type": "playlist", "uri": "spotify:playlist:p1"}
    return {"track": track(), "played_at": played_at, "context": context} | more


def page(*items: object, **more: object) -> dict[str, object]:
    return {"items": list(items), "next": "https://api.spotify.com/next", "limit": 50} | more


def parsed(*items: object):
    return parse_recently_played(page(*items), NOW)


# --- recently played ----------------------------------------------------------------------------


def test_a_page_becomes_plays_and_the_catalogue_they_bring():
    older = item("2026-11-20T10:00:00Z", track=track("t2", popularity=55), context=None)
    result = parsed(item(), older)
    first = datetime(2026, 11, 20, 11, 0, 0, 123_000, UTC)
    second = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
    assert result.plays == (Play(first, "t1", "spotify:playlist:p1"), Play(second, "t2", None))
    assert result.tracks == (
        Track("t1", "Track t1", 201_000, ("a1", "a2"), "l1", "Album", "2024-05-03", None),
        Track("t2", "Track t2", 201_000, ("a1", "a2"), "l1", "Album", "2024-05-03", 55),
    )
    assert result.artists == (Artist("a1", "Artist a1"), Artist("a2", "Artist a2"))
    assert result.item_times == (first, second)
    assert (result.items, result.has_more, result.skipped) == (2, True, {})


def test_an_empty_page_is_parsed():
    result = parse_recently_played(page(next=None, cursors=None), NOW)
    assert (result.plays, result.item_times, result.items) == ((), (), 0)
    assert result.has_more is False


def test_only_a_null_next_marks_the_last_page():
    without = page(item())
    del without["next"]
    assert parse_recently_played(without, NOW).has_more is True
    assert parse_recently_played(page(item(), next=None), NOW).has_more is False


@pytest.mark.parametrize(
    ("reason", "odd"),
    [
        ("null_item", None),
        ("null_track", item(track=None)),
        ("null_track", {"played_at": "2026-11-20T11:30:00Z"}),
        ("local_file", item(track=track(None))),
        ("no_artist", item(track=track(artists=[]))),
        ("no_artist", item(track=track(artists=None))),
        ("no_artist", item(track=track(artists=[artist(None)]))),
        ("bad_time", item(None)),
        ("bad_time", item("")),
        ("bad_time", item("yesterday")),
        ("bad_time", item("2026-11-20")),
        ("bad_time", item("2026-02-30T11:00:00Z")),
        ("bad_time", item(1_763_636_400_000)),
        ("bad_time", item("1970-01-01T00:00:00Z")),
        ("future", item("2026-11-20T12:05:00.001Z")),
        ("bad_item", "text"),
        ("bad_item", item(track="t1")),
        ("bad_item", item(track=track(""))),
        ("bad_item", item(track=track(7))),
        ("bad_item", item(track=track("x" * 256))),
        ("bad_item", item(track=track("a\nb"))),
        ("bad_item", item(track=track("a\x00b"))),
        ("bad_item", item(track=track("a\ud800"))),
        ("bad_item", item(track=track(name=None))),
        ("bad_item", item(track=track(duration_ms=None))),
        ("bad_item", item(track=track(duration_ms=-1))),
        ("bad_item", item(track=track(duration_ms=True))),
        ("bad_item", item(track=track(duration_ms="201000"))),
        ("bad_item", item(track=track(duration_ms=201_000.0))),
        ("bad_item", item(track=track(duration_ms=2**31))),
        ("bad_item", item(track=track(artists=[artist("")]))),
        ("bad_item", item(track=track(artists=[artist(name=5)]))),
    ],
)
def test_an_unusable_item_is_counted_and_the_others_are_kept(reason, odd):
    good = item("2026-11-20T10:00:00Z", track=track("good"))
    for items in ([odd, good], [good, odd]):
        result = parsed(*items)
        assert [play.track_id for play in result.plays] == ["good"]
        assert [kept.spotify_id for kept in result.tracks] == ["good"]
        assert result.skipped == {reason: 1}
        assert result.items == 2


def test_the_times_of_skipped_items_are_known_too():
    """They show how far back the page reaches, even if the items are skipped."""
    result = parsed(
        item("2026-11-20T12:30:00Z"),
        item("2026-11-20T11:00:00Z"),
        item("2026-11-20T09:00:00Z", track=None),
        item("2026-11-20T10:00:00Z", track=track(None)),
        item("1970-01-01T00:00:00Z"),
        item("what"),
    )
    assert [time.strftime("%H:%M") for time in result.item_times] == [
        "12:30",
        "11:00",
        "10:00",
        "09:00",
    ]
    assert result.skipped == {"future": 1, "null_track": 1, "local_file": 1, "bad_time": 2}


def test_plays_up_to_five_minutes_ahead_are_accepted():
    assert len(parsed(item("2026-11-20T12:05:00.000Z")).plays) == 1


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2026-03-01T10:11:12.345Z", "2026-03-01 10:11:12.345"),
        ("2026-03-01T10:11:12Z", "2026-03-01 10:11:12"),
        ("2026-03-01T10:11:12.3Z", "2026-03-01 10:11:12.300"),
        ("2026-03-01T10:11:12.3459Z", "2026-03-01 10:11:12.345"),
        ("2026-03-01T10:11:12.999999999999Z", "2026-03-01 10:11:12.999"),
        ("2026-03-01T10:11:12,5Z", "2026-03-01 10:11:12.500"),
        ("2026-03-01T10:11Z", "2026-03-01 10:11:00"),
        ("2026-03-01t10:11:12z", "2026-03-01 10:11:12"),
        ("2026-03-01 10:11:12+00:00", "2026-03-01 10:11:12"),
        ("2026-03-01T10:11:12", "2026-03-01 10:11:12"),
        ("2026-03-01T10:11:12+05:30", "2026-03-01 04:41:12"),
        ("2026-03-01T10:11:12-0800", "2026-03-01 18:11:12"),
        ("20260301T101112.5Z", "2026-03-01 10:11:12.500"),
        ("2026-W09-7T10:11:12Z", "2026-03-01 10:11:12"),
        ("2016-12-31T23:59:60Z", "2016-12-31 23:59:59.999"),
        ("2016-12-31T23:59:60.250Z", "2016-12-31 23:59:59.999"),
        ("2017-01-01T05:29:60+05:30", "2016-12-31 23:59:59.999"),
        ("20161231T235960Z", "2016-12-31 23:59:59.999"),
        ("2026-03-01T24:00:00Z", "2026-03-02 00:00"),
    ],
)
def test_any_iso_8601_time_is_read_to_the_millisecond(written, meant):
    (play,) = parsed(item(written)).plays
    assert play.played_at == utc(meant)
    assert play.played_at.tzinfo is UTC


@given(st.datetimes(datetime.fromisoformat("2006-01-01"), datetime.fromisoformat("2026-11-20")))
def test_the_form_spotify_sends_is_read_exactly(moment):
    sent = moment.isoformat(timespec="milliseconds") + "Z"
    (play,) = parsed(item(sent)).plays
    assert play.played_at.isoformat(timespec="milliseconds") == sent[:-1] + "+00:00"


def test_a_play_repeated_on_a_page_counts_once():
    result = parsed(item(), item(context=None))
    assert result.plays == (Play(utc("2026-11-20 11:00:00.123"), "t1", "spotify:playlist:p1"),)
    assert result.skipped == {"duplicate": 1}


@pytest.mark.parametrize(
    "same", [{"name": "Song"}, {"external_ids": {"isrc": "USX9P1234567"}}], ids=["name", "isrc"]
)
def test_a_relinked_duplicate_at_one_millisecond_keeps_the_first_id(same):
    """A relinked track is sent under both ids; 0.1237 and 0.1231 s are the same millisecond."""
    result = parsed(
        item("2026-11-20T11:00:00.1237Z", track=track("new", **same)),
        item("2026-11-20T11:00:00.1231Z", track=track("old", **same)),
    )
    assert [play.track_id for play in result.plays] == ["new"]
    assert [kept.spotify_id for kept in result.tracks] == ["new"]
    assert result.skipped == {"relinked": 1}


def test_different_recordings_at_one_millisecond_are_both_plays():
    result = parsed(item(track=track("one")), item(track=track("two")))
    assert [play.track_id for play in result.plays] == ["one", "two"]
    assert result.skipped == {}


@pytest.mark.parametrize(("sent", "length"), [(86_400_000, 86_400_000), (86_400_001, None)])
def test_a_track_length_of_more_than_a_day_is_missing(sent, length):
    assert parsed(item(track=track(duration_ms=sent))).tracks[0].duration_ms == length


@pytest.mark.parametrize("name", ["", " "])
def test_an_emptied_track_is_a_play_without_a_length_and_a_name(name):
    result = parsed(item(track=track(name=name, duration_ms=0)))
    assert len(result.plays) == 1
    assert (result.tracks[0].name, result.tracks[0].duration_ms) == ("", None)


def test_a_relinked_track_keeps_the_id_it_was_sent_with():
    result = parsed(item(track=track("here", linked_from={"id": "there"})))
    assert result.plays[0].track_id == "here"


def test_a_track_played_twice_is_one_row_of_the_catalogue():
    result = parsed(item("2026-11-20T11:00:00Z"), item("2026-11-20T10:00:00Z"))
    assert (len(result.plays), len(result.tracks), len(result.artists)) == (2, 1, 2)


def test_artists_without_an_id_are_dropped_and_the_play_is_kept():
    credited = [artist(None), artist("a5"), artist("a6"), artist("a5")]
    result = parsed(item(track=track(artists=credited)))
    assert result.tracks[0].artist_ids == ("a5", "a6")


def test_characters_that_postgres_cannot_store_are_removed_and_counted():
    odd = track(name="A\x00B\ud83d", album={"name": "\x00", "release_date": "19\x0099"})
    result = parsed(item(track=odd))
    kept = result.tracks[0]
    assert (kept.name, kept.album_name, kept.release_date) == ("AB", "", "1999")
    assert kept.album_id is None
    assert result.skipped == {"cleaned_text": 3}
    assert len(result.plays) == 1


def test_emoji_and_other_scripts_are_left_alone():
    name = "夜に駆ける 🎧 — “Ünïcödé”\tʼ"
    result = parsed(item(track=track(name=name)))
    assert result.tracks[0].name == name
    assert result.skipped == {}


@pytest.mark.parametrize("album", [None, [], "x", {}, {"id": 5, "name": [], "release_date": 1999}])
def test_a_track_without_a_usable_album_is_still_a_track(album):
    kept = parsed(item(track=track(album=album))).tracks[0]
    assert (kept.album_id, kept.album_name, kept.release_date) == (None, None, None)


@pytest.mark.parametrize("context", [None, [], "x", {}, {"uri": None}, {"uri": 5}])
def test_a_play_without_a_usable_context_is_still_a_play(context):
    assert parsed(item(context=context)).plays[0].context_uri is None


@pytest.mark.parametrize("popularity", [None, True, -1, 101, "50", 50.0])
def test_an_invalid_popularity_is_missing_not_0(popularity):
    assert parsed(item(track=track(popularity=popularity))).tracks[0].popularity is None
    assert parsed(item(track=track(popularity=0))).tracks[0].popularity == 0


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "name", "artists", "album", "images", "url", "width", "genres"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)


def _paths(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """The path of every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path] if path else []
    for key, child in inner if isinstance(value, dict | list) else ():
        found += _paths(child, (*path, key)) if isinstance(child, dict | list) else [(*path, key)]
    return found


@given(data=st.data())
def test_no_item_can_fail_its_page(data):
    items: list[object] = [item(), item("2026-11-20T10:00:00Z", track=track("good"))]
    damaged = copy.deepcopy(items[0])
    *way, last = data.draw(st.sampled_from(_paths(damaged)))
    place = damaged
    for key in way:
        place = place[key]
    place[last] = data.draw(_anything)
    items[0] = data.draw(st.sampled_from([damaged, data.draw(_anything)]))
    result = parsed(*items)
    assert result.plays[-1].track_id == "good"
    left_out = sum(n for reason, n in result.skipped.items() if reason != "cleaned_text")
    assert len(result.plays) + left_out == result.items == 2
    assert {play.track_id for play in result.plays} == {kept.spotify_id for kept in result.tracks}
    known = {kept.spotify_id for kept in result.artists}
    assert all(set(kept.artist_ids) <= known and kept.artist_ids for kept in result.tracks)
    # The same corruption in a list of tracks or artists.
    for parse in (parse_top_tracks, parse_top_artists):
        parse(page(damaged["track"], items[0]), "short_term")


@pytest.mark.parametrize(
    "body", [None, [], "text", 5, {}, {"items": None}, {"items": {}}, {"items": "secret"}]
)
def test_a_body_of_another_form_is_refused_and_not_quoted(body):
    for parse in (
        lambda: parse_recently_played(body, NOW),
        lambda: parse_top_artists(body, "short_term"),
        lambda: parse_top_tracks(body, "short_term"),
        lambda: parse_profile(body),
    ):
        with pytest.raises(BadPayload) as caught:
            parse()
        assert "secret" not in str(caught.value)


def test_a_parsing_error_names_the_field():
    with pytest.raises(BadPayload, match="items"):
        parse_recently_played({"items": None}, NOW)


# --- top lists ----------------------------------------------------------------------------------


def test_a_full_artist_has_genres_popularity_and_a_picture():
    full = artist(genres=["pop", "dance pop"], popularity=80, images=PICTURES)
    result = parse_top_artists(page(full), "long_term")
    assert result.time_range == "long_term"
    assert result.artists == (
        Artist("a1", "Artist a1", ("pop", "dance pop"), 80, "https://i.scdn.co/image/300"),
    )


def test_fields_left_out_are_null_and_empty_lists_are_empty():
    sent = page(artist("a1"), artist("a2", genres=None), artist("a3", genres=[], popularity=0))
    genres = [kept.genres for kept in parse_top_artists(sent, "short_term").artists]
    assert genres == [None, None, ()]
    assert [kept.popularity for kept in parse_top_artists(sent, "short_term").artists] == [
        None,
        None,
        0,
    ]


def test_genres_of_a_wrong_type_are_missing_and_odd_ones_left_out():
    sent = page(artist("a1", genres="pop"), artist("a2", genres=["pop", None, 5, "", "r\x00ock"]))
    result = parse_top_artists(sent, "short_term")
    assert [kept.genres for kept in result.artists] == [None, ("pop", "rock")]
    assert result.skipped == {"cleaned_text": 1}


def test_artists_without_an_id_leave_no_hole_in_the_ranks():
    sent = page(artist("a1"), None, artist(None), artist("a1"), artist(5), artist("a2"))
    result = parse_top_artists(sent, "short_term")
    assert [kept.spotify_id for kept in result.artists] == ["a1", "a2"]
    assert result.skipped == {"null_item": 1, "no_id": 1, "duplicate": 1, "bad_item": 1}


def test_a_top_track_is_shown_with_its_first_artist_album_and_picture():
    sent = page(track("t1", preview_url="https://p.scdn.co/x", popularity=3), track("t2"))
    result = parse_top_tracks(sent, "medium_term")
    assert result.entries[0] == TopTrack(
        "t1",
        "Track t1",
        "Artist a1",
        "Album",
        "https://i.scdn.co/image/300",
        "https://p.scdn.co/x",
    )
    assert result.entries[1].preview_url is None
    assert [kept.popularity for kept in result.tracks] == [3, None]
    assert [kept.spotify_id for kept in result.artists] == ["a1", "a2"]


def test_top_tracks_without_an_id_leave_no_hole_in_the_ranks():
    sent = page(None, track(None), track(artists=[]), track("t1"), track("t1"), track("t2"))
    result = parse_top_tracks(sent, "short_term")
    assert [entry.spotify_id for entry in result.entries] == ["t1", "t2"]
    assert result.skipped == {"null_item": 1, "no_id": 1, "no_artist": 1, "duplicate": 1}


def test_a_top_list_longer_than_spotify_sends_is_cut_and_counted():
    many = {"items": [{"id": f"a{n}", "name": f"Artist {n}"} for n in range(53)]}
    result = parse_top_artists(many, "long_term")
    assert [artist.spotify_id for artist in result.artists] == [f"a{n}" for n in range(50)]
    assert result.skipped == {"beyond_limit": 3}


def test_an_empty_top_list_is_no_error():
    assert parse_top_artists({"items": []}, "short_term").artists == ()
    assert parse_top_tracks({"items": []}, "short_term").entries == ()


@pytest.mark.parametrize(
    ("images", "chosen"),
    [
        (PICTURES, "https://i.scdn.co/image/300"),
        ([{"url": "https://x/640", "width": 640}, {"url": "https://x/64", "width": 64}], "x/64"),
        ([{"url": "https://x/200", "width": 200}, {"url": "https://x/400", "width": 400}], "x/200"),
        ([{"url": "https://x/none", "width": None}, {"url": "https://x/9", "width": 9}], "x/9"),
        ([{"url": "https://x/a"}, {"url": "https://x/b"}], "x/a"),
        ([{"url": "javascript:alert(1)", "width": 300}], None),
        ([{"url": None, "width": 300}, None, "x", {"url": "http://x/1", "width": True}], "x/1"),
        ([], None),
        (None, None),
        ({}, None),
    ],
)
def test_the_picture_nearest_to_300_pixels_is_chosen(images, chosen):
    (kept,) = parse_top_artists(page(artist(images=images)), "short_term").artists
    assert kept.image_url is None if chosen is None else str(kept.image_url).endswith(chosen)


# --- profile ------------------------------------------------------------------------------------


def test_a_profile_has_an_id_and_optionally_an_account_id_and_a_name():
    full = {"id": "anna", "account_id": "acc", "display_name": "An\x00na", "country": "DE"}
    assert parse_profile(full) == Profile("anna", "acc", "Anna")
    assert parse_profile({"id": "anna", "display_name": None}) == Profile("anna", None, None)


@pytest.mark.parametrize(
    "sent", [{}, {"id": None}, {"id": ""}, {"id": 5}, {"id": "a\n"}, {"id": "a", "account_id": 5}]
)
def test_a_profile_without_a_usable_id_is_refused(sent):
    with pytest.raises(BadPayload, match="id"):
        parse_profile(sent)
