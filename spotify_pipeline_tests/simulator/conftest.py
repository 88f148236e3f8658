"""A simulator in its own process, and listeners that call it."""

import datetime as dt
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import count
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from spotify_pipeline.simulator.control import ListenerInfo, Simulator
from spotify_pipeline.simulator.server import running_simulator

NOON = dt.datetime(2026, 3, 4, 12, tzinfo=dt.UTC)


class ListenerClient:
    """A listener's HTTP client, calling the simulator as an app would."""

    def __init__(self, simulator: Simulator, info: ListenerInfo) -> None:
        self.simulator = simulator
        self.info = info
        self.user_id = info.user_id
        self.refresh_token = info.refresh_token
        self.session = requests.Session()
        # A hidden retry would mask a connection broken by a fault.
        self.session.mount("http://", HTTPAdapter(max_retries=0))
        self._access_token: str | None = None

    def refresh(self, **form: str) -> requests.Response:
        """Calls the token endpoint."""
        return self.session.post(
            f"{self.simulator.url}/api/token",
            data={"grant_type": "refresh_token", "refresh_token": self.refresh_token, **form},
            auth=(self.simulator.client_id, self.simulator.client_secret),
            timeout=20,
        )

    def get(self, path: str, **options: Any) -> requests.Response:
        """Calls the Web API with a cached access token."""
        headers = {"Authorization": self.authorization()}
        url = path if path.startswith("http") else f"{self.simulator.url}{path}"
        return self.session.get(url, headers=headers, **{"timeout": 20, **options})

    def authorization(self) -> str:
        """The header with the cached access token."""
        if self._access_token is None:
            self._access_token = self.refresh().json()["access_token"]
        return f"Bearer {self._access_token}"

    def recently(self, **query: object) -> requests.Response:
        """Calls recently-played."""
        return self.get("/v1/me/player/recently-played", params=query)


@pytest.fixture(scope="session")
def shared_simulator() -> Iterator[Simulator]:
    with running_simulator(seed=3, now=NOON) as simulator:
        yield simulator


@pytest.fixture
def simulator(shared_simulator: Simulator) -> Simulator:
    """A simulator stopped at noon; every test adds its own listeners."""
    shared_simulator.set_clock(NOON)
    shared_simulator.forget_calls()
    shared_simulator.clear_faults()
    shared_simulator.set_limits()
    return shared_simulator


@pytest.fixture
def add_listener(
    simulator: Simulator, request: pytest.FixtureRequest
) -> Callable[..., ListenerClient]:
    """Adds a listener with an id that no other test uses.

    A life follows from its id, so the id follows from the test, not from the order of the tests.
    """
    test = sha256(request.node.nodeid.encode()).hexdigest()[:12]
    numbers = count(1)

    def add(
        user_id: str | None = None, timezone: str = "Europe/Oslo", **more: Any
    ) -> ListenerClient:
        name = user_id or f"person-{test}-{next(numbers)}"
        return ListenerClient(simulator, simulator.add_listener(name, timezone, **more))

    return add
