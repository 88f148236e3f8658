"""The environment is read once, validated, and never printed."""

import os
from pathlib import Path

import pytest

from spotify_pipeline.settings import ConfigurationError, load_settings

CANARY = "canary-3f9d1c"


def test_an_empty_environment_gives_the_defaults_and_an_absolute_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings({})
    assert settings.home == tmp_path / ".spotify_pipeline"
    assert settings.api_url == "https://api.spotify.com"
    assert settings.top_limit == 20


def test_an_empty_variable_is_an_unset_one() -> None:
    assert load_settings({"SPOTIFY_PIPELINE_DATABASE_URL": ""}).database_url is None


def test_the_home_means_the_same_directory_in_a_child_that_works_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPOTIFY_PIPELINE_HOME", "data")
    load_settings()
    assert os.environ["SPOTIFY_PIPELINE_HOME"] == str(tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPOTIFY_PIPELINE_TOP_LIMIT", "51"),
        ("SPOTIFY_PIPELINE_TOP_LIMIT", "many"),
        ("SPOTIFY_PIPELINE_CONNECTIONS", "0"),
        ("SPOTIFY_API_URL", "api.spotify.com"),
        ("SPOTIFY_API_URL", "http://api.spotify.com"),
        ("SPOTIFY_ACCOUNTS_URL", "ftp://127.0.0.1"),
        ("SPOTIFY_PIPELINE_REVALIDATE_URL", "http://app.example"),
        ("SPOTIFY_PIPELINE_APP_ROLE", "pg_read_all_data"),
        ("SPOTIFY_PIPELINE_APP_ROLE", "Public"),
        ("SPOTIFY_PIPELINE_APP_ROLE", 'app"; DROP TABLE users; --'),
        ("SPOTIFY_PIPELINE_APP_ROLE", "x" * 64),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_settings({name: value})
    assert str(error.value).startswith(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SPOTIFY_PIPELINE_TOP_LIMIT", "51", "must be 50 or less"),
        ("SPOTIFY_PIPELINE_TOP_LIMIT", "many", "must be a whole number from 1 to 50."),
        ("SPOTIFY_PIPELINE_TOP_LIMIT", "9" * 5000, "must be a whole number from 1 to 50."),
        ("SPOTIFY_PIPELINE_CONNECTIONS", "0", "must be 1 or more"),
        ("SPOTIFY_PIPELINE_KEEP_PLAYS_DAYS", "1.5", "must be a whole number from 0 to 36500."),
        ("SPOTIFY_PIPELINE_EXECUTOR", "threads", "must be 'multiprocess' or 'celery'"),
        ("SPOTIFY_API_URL", "http://[::1", "must be an address such as https://api.spotify.com"),
        ("SPOTIFY_PIPELINE_UI_HOSTS", "ui.example.org:80", "must be host names without scheme"),
    ],
)
def test_a_wrong_value_is_explained_in_a_sentence(name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_settings({name: value})
    assert str(error.value).startswith(f"{name} {said}")


def test_every_wrong_variable_has_its_own_line() -> None:
    with pytest.raises(ConfigurationError) as error:
        load_settings({"SPOTIFY_PIPELINE_TOP_LIMIT": "0", "SPOTIFY_PIPELINE_CONNECTIONS": "x"})
    assert len(str(error.value).splitlines()) == 2


def test_plain_http_is_for_loopback() -> None:
    assert load_settings({"SPOTIFY_API_URL": "http://127.0.0.1:8765/"}).api_url.endswith(":8765")


def test_a_hook_without_its_secret_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="SPOTIFY_PIPELINE_REVALIDATE_SECRET"):
        load_settings({"SPOTIFY_PIPELINE_REVALIDATE_URL": "https://app.example/hook"})


def test_the_repr_and_json_of_settings_show_no_secret() -> None:
    names = (
        "SPOTIFY_PIPELINE_DATABASE_URL",
        "DAGSTER_PG_URL",
        "SPOTIFY_CLIENT_SECRET",
        "SPOTIFY_PIPELINE_TOKEN_KEYS",
        "SPOTIFY_PIPELINE_REVALIDATE_SECRET",
    )
    settings = load_settings(dict.fromkeys(names, CANARY))
    assert CANARY not in repr(settings)
    assert CANARY not in str(settings)
    assert CANARY not in settings.model_dump_json()


def test_a_webhook_secret_that_claims_to_be_base64_has_to_be() -> None:
    name = "SPOTIFY_PIPELINE_REVALIDATE_SECRET"
    for good in ("words of any kind", "whsec_a2V5a2V5"):
        assert load_settings({name: good}).revalidate_secret
    with pytest.raises(ConfigurationError, match=r"base64 after whsec_") as refused:
        load_settings({name: "whsec_not base64!"})
    assert "not base64!" not in str(refused.value)


def test_a_secret_may_come_from_a_file_and_the_variable_itself_wins(tmp_path: Path) -> None:
    file, name = tmp_path / "secret", "SPOTIFY_CLIENT_SECRET"
    file.write_text("canary\n")
    from_file = load_settings({f"{name}_FILE": str(file)}).spotify_client_secret
    assert from_file is not None
    assert from_file.get_secret_value() == "canary"
    both = load_settings({f"{name}_FILE": str(file), name: "itself"}).spotify_client_secret
    assert both is not None
    assert both.get_secret_value() == "itself"
    file.write_text("\n")
    assert load_settings({f"{name}_FILE": str(file)}).spotify_client_secret is None
    with pytest.raises(ConfigurationError, match=f"{name}_FILE names a file that cannot be read"):
        load_settings({f"{name}_FILE": str(tmp_path)})


@pytest.mark.parametrize("address", ["foo://canary", "slack://canary"])
def test_an_alert_address_that_apprise_does_not_know_is_refused_without_showing_it(
    address: str,
) -> None:
    with pytest.raises(ConfigurationError, match="address of apprise") as refused:
        load_settings({"SPOTIFY_PIPELINE_ALERT_URL": address})
    assert "canary" not in str(refused.value)
