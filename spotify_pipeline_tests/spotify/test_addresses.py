"""Which addresses of services are accepted: https, or plain http on loopback."""

import pytest

from spotify_pipeline.spotify.messages import BaseUrl


@pytest.mark.parametrize(
    ("text", "kept", "loopback"),
    [
        ("https://api.spotify.com", "https://api.spotify.com", False),
        ("https://api.spotify.com/", "https://api.spotify.com", False),
        (" https://api.spotify.com:8443/base/ ", "https://api.spotify.com:8443/base", False),
        ("http://127.0.0.1:8123", "http://127.0.0.1:8123", True),
        ("http://127.8.9.1", "http://127.8.9.1", True),
        ("http://localhost:8123", "http://localhost:8123", True),
        ("http://[::1]:8123", "http://[::1]:8123", True),
        ("HTTPS://API.spotify.com", "https://api.spotify.com", False),
    ],
)
def test_safe_addresses_are_parsed(text, kept, loopback):
    assert BaseUrl.parse(text) == BaseUrl(kept, loopback)


@pytest.mark.parametrize(
    "text",
    [
        "http://api.spotify.com",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "http://127.0.0.1@evil.example",
        "http://10.0.0.1",
        "http://0.0.0.0:80",
        "https://user:canary@api.spotify.com",
        "https://api.spotify.com?x=canary",
        "https://api.spotify.com#canary",
        "https://",
        "api.spotify.com",
        "ftp://api.spotify.com",
        "file:///etc/passwd",
        "http://[::1",
        "https://api.spotify.com:port",
        "https://api.spotify.com:99999",
        "",
    ],
)
def test_unsafe_addresses_are_refused_without_repeating_a_secret(text):
    with pytest.raises(ValueError, match=r"^[^\n]+\.$") as caught:
        BaseUrl.parse(text)
    assert "canary" not in str(caught.value)
    assert "user" not in str(caught.value).split()
