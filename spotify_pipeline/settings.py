"""The environment, read once: every variable the project knows, its default and its check.

Nothing else in the package reads configuration from the environment. Of each variable NAME there is
NAME_FILE too, a file that holds its value. Secrets are `SecretStr`: they
print as asterisks and leave only through `.get_secret_value()`.
"""

import os
import re
from base64 import b64decode
from collections.abc import Mapping, MutableMapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from spotify_pipeline.errors import UsageError

# 28 days, compared with the 180 before, in any zone.
FEWEST_DAYS_OF_PLAYS = 210
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class ConfigurationError(UsageError):
    """The environment cannot be used as it is; the message says which variable and what to do."""


def _http_url(text: str) -> str:
    """An https URL without trailing slash; plain http only on loopback, where no one can listen."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an address such as https://api.spotify.com")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ValueError("must use https, because tokens travel there (plain http: loopback only)")
    return text.rstrip("/")


def _days_of_plays(days: int) -> int:
    if 0 < days < FEWEST_DAYS_OF_PLAYS:
        raise ValueError(
            f"must be 0 or at least {FEWEST_DAYS_OF_PLAYS}: the personality looks back that far"
        )
    return days


def _role(text: str) -> str:
    """A name for a role of Postgres: needs no escaping, and is not reserved."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}", text):
        raise ValueError(
            "must be a role's name: a letter, then letters, digits and _ - . (at most 63 in all)"
        )
    if text.lower().startswith("pg_") or text.lower() in {"public", "none"}:
        raise ValueError("must not be a name that Postgres keeps for itself")
    return text


def _long(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value()) < 32:
        raise ValueError("must be 32 characters or more")
    return secret


def _host_names(text: str) -> str:
    """Names of hosts, without scheme and port, in lower case."""
    names = [name.strip().lower() for name in text.split(",")]
    if not all(re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name) for name in names):
        raise ValueError("must be host names without scheme and port, comma separated")
    return ",".join(names)


def webhook_key(secret: str) -> bytes:
    """The key of a hook's secret: base64 after `whsec_`, as Standard Webhooks has it; or its bytes.

    Raises ValueError for a `whsec_` that is not base64.
    """
    encoded = secret.removeprefix("whsec_")
    return secret.encode() if encoded == secret else b64decode(encoded, validate=True)


def _webhook_secret(secret: SecretStr) -> SecretStr:
    try:
        webhook_key(secret.get_secret_value())
    except ValueError:
        raise ValueError(
            "must be base64 after whsec_, or any text that does not begin so"
        ) from None
    return secret


def _alert_url(secret: SecretStr) -> SecretStr:
    """An address as of the other hooks; of another scheme, one that apprise understands."""
    url = secret.get_secret_value()
    if urlsplit(url).scheme in {"", "http", "https"}:
        return SecretStr(_http_url(url))
    if find_spec("apprise") is None:
        raise ValueError("must use https, or needs pip install spotify_pipeline[apprise]")
    from apprise import Apprise

    if not Apprise().add(url):
        raise ValueError("must use https, or be an address of apprise such as ntfy://topic")
    return secret


HttpUrl = Annotated[str, AfterValidator(_http_url)]
RoleName = Annotated[str, AfterValidator(_role)]


class Settings(BaseModel):
    """All configuration. Field descriptions are what `doctor` and the README print."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    home: Path = Field(
        Path(".spotify_pipeline"),
        alias="SPOTIFY_PIPELINE_HOME",
        description="Directory for the embedded database, keys, logs and Dagster's files.",
    )
    database_url: SecretStr | None = Field(
        None,
        alias="SPOTIFY_PIPELINE_DATABASE_URL",
        description="PostgreSQL 15 or newer. Unset: an embedded PostgreSQL in the home.",
    )
    dagster_pg_url: SecretStr | None = Field(
        None,
        alias="DAGSTER_PG_URL",
        description="Dagster's own storage. Unset: database `dagster` of the same server.",
    )
    app_role: RoleName = Field(
        "spotify_app",
        alias="SPOTIFY_PIPELINE_APP_ROLE",
        description="Role of the app in our database; `init-db` makes it and sets its rights.",
    )
    analyst_role: RoleName = Field(
        "spotify_analyst",
        alias="SPOTIFY_PIPELINE_ANALYST_ROLE",
        description="Role of analysts, who only read; `init-db` makes it and sets its rights.",
    )
    spotify_client_id: str | None = Field(
        None,
        alias="SPOTIFY_CLIENT_ID",
        description="Client id of your app in the Spotify developer dashboard.",
    )
    spotify_client_secret: SecretStr | None = Field(
        None,
        alias="SPOTIFY_CLIENT_SECRET",
        description="Its secret. Not needed for tokens obtained with PKCE.",
    )
    api_url: HttpUrl = Field(
        "https://api.spotify.com",
        alias="SPOTIFY_API_URL",
        description="Spotify's Web API.",
    )
    accounts_url: HttpUrl = Field(
        "https://accounts.spotify.com",
        alias="SPOTIFY_ACCOUNTS_URL",
        description="Spotify's token service.",
    )
    token_keys: SecretStr | None = Field(
        None,
        alias="SPOTIFY_PIPELINE_TOKEN_KEYS",
        description=(
            "Private keys that open refresh tokens, `id:base64`, comma separated, current first. "
            "Unset with the embedded database: a key file in the home."
        ),
    )
    calls_per_30s: int = Field(
        90,
        ge=0,
        le=1_000_000,
        alias="SPOTIFY_PIPELINE_CALLS_PER_30S",
        description="Calls to Spotify in any 30 seconds, over all processes; 0: no limit.",
    )
    calls_per_day: int = Field(
        1000,
        ge=0,
        le=100_000_000,
        alias="SPOTIFY_PIPELINE_CALLS_PER_DAY",
        description=(
            "Calls to Spotify in any 24 hours, over all processes, a fifth of them kept for "
            "requests; 0: no limit."
        ),
    )
    connections: int = Field(
        16,
        ge=1,
        le=256,
        alias="SPOTIFY_PIPELINE_CONNECTIONS",
        description="Threads that talk to Spotify, per process.",
    )
    top_limit: int = Field(
        20,
        ge=1,
        le=50,
        alias="SPOTIFY_PIPELINE_TOP_LIMIT",
        description="Length of the top lists.",
    )
    revalidate_url: HttpUrl | None = Field(
        None,
        alias="SPOTIFY_PIPELINE_REVALIDATE_URL",
        description="The app's cache hook, called after new results. Unset: no call.",
    )
    revalidate_secret: Annotated[SecretStr, AfterValidator(_webhook_secret)] | None = Field(
        None,
        alias="SPOTIFY_PIPELINE_REVALIDATE_SECRET",
        description=(
            "Signs the cache hook's calls (HMAC-SHA256, Standard Webhooks): `whsec_` and base64, "
            "or any other text."
        ),
    )
    # Secret: the address of a chat webhook is its credential.
    alert_url: Annotated[SecretStr, AfterValidator(_alert_url)] | None = Field(
        None,
        alias="SPOTIFY_PIPELINE_ALERT_URL",
        description=(
            "Receives a JSON POST with counts, at most one per class of events and hour, when "
            "something has to be looked at; or, with the extra `apprise`, any of its addresses. "
            "Unset: no call."
        ),
    )
    ui_hosts: Annotated[str, AfterValidator(_host_names)] | None = Field(
        None,
        alias="SPOTIFY_PIPELINE_UI_HOSTS",
        description=(
            "Host names, comma separated, under which your proxy with a sign-in serves the Dagster "
            "UI. Unset: loopback names only."
        ),
    )
    web_url: HttpUrl | None = Field(
        None,
        alias="SPOTIFY_PIPELINE_WEB_URL",
        description=(
            "Address of the web page for its users, behind your proxy; `/callback` under it is to "
            "be among the developer app's redirect URIs. Unset: `http://127.0.0.1:PORT`."
        ),
    )
    web_database_url: SecretStr | None = Field(
        None,
        alias="SPOTIFY_PIPELINE_WEB_DATABASE_URL",
        description=(
            "The web page's own login, a member of the app's role; `init-db` makes it if it is "
            "missing. Unset with the embedded database: made by `web`."
        ),
    )
    web_secret: Annotated[SecretStr, AfterValidator(_long)] | None = Field(
        None,
        alias="SPOTIFY_PIPELINE_WEB_SECRET",
        description=(
            "Signs the web page's cookies, 32 characters or more; the same for all its processes. "
            "Unset: a file in the home."
        ),
    )
    web_accounts: str | None = Field(
        None,
        alias="SPOTIFY_PIPELINE_WEB_ACCOUNTS",
        description=(
            "Ids of the Spotify accounts that may sign in to the web page, comma separated. "
            "Unset: all that Spotify lets use the developer app."
        ),
    )
    executor: Literal["multiprocess", "celery"] = Field(
        "multiprocess",
        alias="SPOTIFY_PIPELINE_EXECUTOR",
        description="What runs the chunks of `sync_users`: `multiprocess` or `celery`.",
    )
    workers: int = Field(
        2,
        ge=1,
        le=64,
        alias="SPOTIFY_PIPELINE_WORKERS",
        description="Processes of one run of `sync_users`, with `multiprocess`.",
    )
    broker_url: SecretStr | None = Field(
        None,
        alias="SPOTIFY_PIPELINE_BROKER_URL",
        description="With `celery`: the Redis that hands chunks to workers, `redis://…`.",
    )
    redeliver_seconds: int = Field(
        3600,
        ge=10,
        le=86_400,
        alias="SPOTIFY_PIPELINE_REDELIVER_SECONDS",
        description=(
            "With `celery`: when a chunk whose worker vanished goes to another one; longer than "
            "any chunk takes."
        ),
    )
    keep_runs_days: int = Field(
        30,
        ge=1,
        le=3650,
        alias="SPOTIFY_PIPELINE_KEEP_RUNS_DAYS",
        description="How long Dagster's finished runs and their events are kept.",
    )
    keep_plays_days: Annotated[int, AfterValidator(_days_of_plays)] = Field(
        0,
        ge=0,
        le=36500,
        alias="SPOTIFY_PIPELINE_KEEP_PLAYS_DAYS",
        description=(
            "Plays older than so many local days are deleted, their days stay as they are; at "
            "least 210, because the personality looks back that far. 0: kept for ever."
        ),
    )
    keep_logs_days: int = Field(
        30,
        ge=7,
        le=3650,
        alias="SPOTIFY_PIPELINE_KEEP_LOGS_DAYS",
        description="How long the log of fetches, outcomes of runs and closed requests are kept.",
    )


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read and check the environment.

    The home is made absolute, against the current directory, so that it means the same in every
    child process. Loopback is taken out of every proxy, here and in children. Raises
    ConfigurationError, one sentence per wrong variable, values not shown.
    """
    if environ is not None:
        return _load(environ)
    loaded = _load(os.environ)
    os.environ["SPOTIFY_PIPELINE_HOME"] = str(loaded.home)
    _spare_loopback(os.environ)
    return loaded


def _spare_loopback(environ: MutableMapping[str, str]) -> None:
    """Keeps calls to this machine out of every proxy, in this process and in its children.

    gRPC, requests and urllib read these variables; a proxy asked for 127.0.0.1 means its own.
    """
    direct = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    grpc_direct = environ.get("no_grpc_proxy") or direct
    for names, value in ((("no_proxy", "NO_PROXY"), direct), (("no_grpc_proxy",), grpc_direct)):
        hosts = [host.strip() for host in value.split(",") if host.strip()]
        if hosts == ["*"] and "no_proxy" in names:  # no proxy for anybody, but only by itself
            continue
        for name in names:
            environ[name] = ",".join(dict.fromkeys([*hosts, *sorted(LOOPBACK)]))


def _load(environ: Mapping[str, str]) -> Settings:
    known = {name: environ[name] for name in variables() if environ.get(name)}
    for name in variables():
        if name not in known and (path := environ.get(f"{name}_FILE")):
            known[name] = _content_of(f"{name}_FILE", Path(path))
    known = {name: value for name, value in known.items() if value}
    try:
        loaded = Settings.model_validate(known)
    except ValidationError as error:
        raise ConfigurationError("\n".join(_sentence(e) for e in error.errors())) from None
    if loaded.app_role == loaded.analyst_role:
        raise ConfigurationError(
            "SPOTIFY_PIPELINE_ANALYST_ROLE is the app's role: give analysts a role of their own."
        )
    if loaded.revalidate_url and not loaded.revalidate_secret:
        raise ConfigurationError(
            "SPOTIFY_PIPELINE_REVALIDATE_SECRET is missing: the app checks the calls of "
            "SPOTIFY_PIPELINE_REVALIDATE_URL with it. Set both or neither."
        )
    return loaded.model_copy(update={"home": loaded.home.expanduser().absolute()})


def _content_of(variable: str, path: Path) -> str:
    """Content of a secret file, as containers mount them. Raises ConfigurationError."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(
            f"{variable} names a file that cannot be read: correct or unset it."
        ) from None


def variables() -> dict[str, str]:
    """Every environment variable of the project with its description."""
    return {
        field.alias or name: field.description or ""
        for name, field in Settings.model_fields.items()
    }


def _sentence(error: ErrorDetails) -> str:
    limits = error.get("ctx", {})
    if error["type"] == "value_error":
        message = error["msg"].removeprefix("Value error, ")
        if not message.startswith("must"):  # urlsplit's own words
            message = "must be an address such as https://api.spotify.com"
    elif error["type"] == "literal_error":
        message = f"must be {limits['expected']}"
    elif error["type"] == "greater_than_equal":
        message = f"must be {limits['ge']} or more"
    elif error["type"] == "less_than_equal":
        message = f"must be {limits['le']} or less"
    elif error["type"].startswith("int_"):
        message = f"must be a whole number{_range(error['loc'][0])}"
    else:
        message = "is not valid"
    return f"{error['loc'][0]} {message}. Correct or unset it."


def _range(variable: str | int) -> str:
    """The limits of a number in words."""
    (field,) = (field for field in Settings.model_fields.values() if field.alias == variable)
    bounds = [(bound, end) for end in ("ge", "le") for bound in field.metadata]
    limits = [getattr(bound, end) for bound, end in bounds if hasattr(bound, end)]
    return f" from {' to '.join(map(str, limits))}"


@cache
def settings() -> Settings:
    """The settings of this process, read at first use."""
    return load_settings()
