"""Fields that Spotify no longer sends differ from fields that are unknown for one item."""

from spotify_pipeline.domain.model import Artist, Track, not_provided


def test_a_field_that_every_item_lacks_was_not_provided() -> None:
    artists = [Artist("a", "A", image_url="https://i.example/a"), Artist("b", "B")]
    assert not_provided(artists) == ("genres", "popularity")


def test_an_empty_list_of_genres_was_provided() -> None:
    assert "genres" not in not_provided([Artist("a", "A", genres=()), Artist("b", "B")])


def test_genres_are_not_reported_as_missing_for_tracks() -> None:
    track = Track("t", "T", 1000, ("a",), album_id="x", album_name="X", release_date="2020")
    assert not_provided([track]) == ("popularity",)


def test_without_items_no_field_is_reported_as_missing() -> None:
    assert not_provided([]) == ()
