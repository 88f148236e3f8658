"""A write reports exactly which rows it changed; equal rows are not written."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, event, insert, select

from spotify_pipeline.domain.model import Artist, Play, TopArtists, Track
from spotify_pipeline.storage import tables as t
from spotify_pipeline.storage.listening.catalogue import save_artists, save_tracks
from spotify_pipeline.storage.listening.plays import insert_plays, read_plays
from spotify_pipeline.storage.listening.top_lists import FetchedList, replace_top_artists
from spotify_pipeline.storage.postgres.bulk import Written, upsert_changed

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def anna(connection: Connection) -> str:
    connection.execute(insert(t.users).values(user_id="anna"))
    return "anna"


def top(*names: str) -> TopArtists:
    return TopArtists("short_term", tuple(Artist(name, f"The {name}") for name in names))


def artist(connection: Connection, spotify_id: str) -> tuple[object, ...]:
    a = t.artists
    row = connection.execute(
        select(a.c.name, a.c.genres, a.c.popularity).where(a.c.spotify_id == spotify_id)
    ).one()
    return tuple(row)


def test_a_write_distinguishes_new_changed_and_equal_rows(connection: Connection) -> None:
    def row(spotify_id: str, name: str) -> dict[str, object]:
        return {"spotify_id": spotify_id, "name": name}

    first = upsert_changed(connection, t.artists, [row("b", "Bee"), row("a", "Ay")])
    assert first == Written(inserted=(("a",), ("b",)))
    again = upsert_changed(
        connection, t.artists, [row("c", "Sea"), row("b", "Bee!"), row("a", "Ay")]
    )
    assert again == Written(inserted=(("c",),), changed=(("b",),))
    assert (again.total, upsert_changed(connection, t.artists, []).total) == (2, 0)


def test_fields_missing_from_a_response_keep_their_values_and_null_is_no_change(
    connection: Connection,
) -> None:
    known = Artist("a", "Ay", genres=("pop",), popularity=50, image_url="https://i/1")
    assert save_artists(connection, [known]).inserted == (("a",),)
    assert save_artists(connection, [Artist("a", "Ay")]).total == 0
    assert artist(connection, "a") == ("Ay", ["pop"], 50)
    # Spotify said that there are no genres, which differs from a missing field.
    assert save_artists(connection, [Artist("a", "Ay", genres=())]).changed == (("a",),)
    assert artist(connection, "a") == ("Ay", [], 50)


@pytest.mark.parametrize("order", [1, -1])
def test_the_fuller_of_two_versions_of_an_artist_is_stored(
    connection: Connection, order: int
) -> None:
    forms = [Artist("a", "Ay", genres=("pop",), image_url="https://i/1"), Artist("a", "Ay")]
    save_artists(connection, forms[::order])
    assert artist(connection, "a") == ("Ay", ["pop"], None)


def test_an_unchanged_list_moves_only_fetched_at(connection: Connection, anna: str) -> None:
    key = (anna, "short_term")
    again = FetchedList(anna, top("a", "b"), NOON + HOUR)
    first = replace_top_artists(connection, [replace(again, fetched_at=NOON)])[key]
    assert (first.total, first.new, first.changed) == (2, 2, 0)
    second = replace_top_artists(connection, [again])[key]
    assert (second.total, second.new, second.changed) == (2, 0, 0)
    stamps = connection.scalars(select(t.user_top_artists.c.fetched_at)).all()
    assert set(stamps) == {NOON + HOUR}
    history = connection.execute(
        select(t.top_artists_history.c.valid_from, t.top_artists_history.c.valid_to)
    ).all()
    assert {tuple(row) for row in history} == {(NOON, None)}


def test_the_history_has_every_list_with_the_time_in_which_it_stood(
    connection: Connection, anna: str
) -> None:
    for hours, names in enumerate(("ab", "ba", "", "ba", "b", "ab")):
        replace_top_artists(connection, [FetchedList(anna, top(*names), NOON + hours * HOUR)])
    h = t.top_artists_history
    stood: dict[tuple[datetime, datetime | None], str] = {}
    for row in connection.execute(select(h).order_by(h.c.valid_from, h.c.rank)):
        span = (row.valid_from, row.valid_to)
        stood[span] = stood.get(span, "") + row.spotify_id
    assert stood == {
        (NOON, NOON + HOUR): "ab",
        (NOON + HOUR, NOON + 4 * HOUR): "ba",
        (NOON + 4 * HOUR, NOON + 5 * HOUR): "b",
        (NOON + 5 * HOUR, None): "ab",
    }


def test_only_plays_that_were_not_known_are_reported_as_new(
    connection: Connection, anna: str
) -> None:
    save_artists(connection, [Artist("a", "Ay")])
    tracks = {name: Track(name, name, 180_000, ("a",)) for name in ("t1", "t2")}
    save_tracks(connection, tracks.values())
    connection.execute(
        insert(t.plays).values(
            user_id=anna, played_at=NOON - HOUR, track_id="t1", source="export", ms_played=5
        )
    )

    def of(*plays: tuple[datetime, str]) -> list[tuple[Play, Track]]:
        return [(Play(at, name), tracks[name]) for at, name in plays]

    first = of((NOON, "t1"), (NOON - HOUR, "t2"))
    assert insert_plays(connection, {anna: first}) == [(anna, NOON), (anna, NOON - HOUR)]
    # The same page again, and an imported play that the API returns too: it becomes the API's.
    again = of((NOON, "t1"), (NOON - HOUR, "t1"), (NOON + HOUR, "t1"))
    new = {(anna, NOON - HOUR), (anna, NOON + HOUR)}
    assert set(insert_plays(connection, {anna: again})) == new
    assert insert_plays(connection, {anna: again}) == []
    assert insert_plays(connection, {anna: []}) == []


def test_plays_are_read_of_each_user_within_their_own_window(
    connection: Connection, anna: str
) -> None:
    connection.execute(insert(t.users), [{"user_id": "ben"}, {"user_id": "cleo"}])
    save_artists(connection, [Artist("a", "Ay"), Artist("b", "Bee")])
    track = Track("t1", "t1", 180_000, ("b", "a"), release_date="1999")
    save_tracks(connection, [track])
    plays = [(Play(NOON + hours * HOUR, "t1"), track) for hours in range(-1, 3)]
    insert_plays(connection, dict.fromkeys((anna, "ben", "cleo"), plays))
    frame = read_plays(connection, {"ben": None, anna: (NOON + HOUR, NOON + 2 * HOUR)})
    # The end of a window is exclusive, and the play before its start is included.
    assert list(zip(frame["user_id"], frame["played_at"], strict=True)) == [
        (anna, NOON),
        (anna, NOON + HOUR),
        *(("ben", NOON + hours * HOUR) for hours in range(-1, 3)),
    ]
    assert set(frame["artist_id"]) == {"b"}
    assert set(frame["release_date"]) == {"1999"}
    assert frame["ms_played"].isna().all()
    empty = read_plays(connection, {})
    assert (len(empty), list(empty.dtypes)) == (0, list(frame.dtypes))


def test_writing_a_thousand_rows_takes_few_statements(connection: Connection) -> None:
    """Round trips limit how many users a process can serve."""
    rows = [{"spotify_id": f"{number:04}", "name": "x"} for number in range(1000)]
    sent: list[str] = []
    event.listen(connection, "before_cursor_execute", lambda *args: sent.append(args[2]))
    assert len(upsert_changed(connection, t.artists, rows).inserted) == 1000
    assert len(sent) <= 2
