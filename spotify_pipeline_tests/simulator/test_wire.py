"""Connections that break, trickle or send garbage, seen by an ordinary client."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
import requests

from spotify_pipeline.simulator.control import Simulator
from spotify_pipeline.simulator.faults import wire
from spotify_pipeline_tests.simulator.conftest import ListenerClient

AddListener = Callable[..., ListenerClient]


@pytest.fixture
def listener(simulator: Simulator, add_listener: AddListener) -> Iterator[ListenerClient]:
    """A listener with an access token; afterwards checks that the simulator still responds."""
    listener = add_listener()
    assert listener.recently().status_code == 200
    yield listener
    simulator.clear_faults()
    assert listener.recently().status_code == 200


def raw_answer(simulator: Simulator, listener: ListenerClient) -> bytes:
    """All bytes until the end of the connection."""
    address = urlsplit(simulator.url)
    authorization = listener.authorization()
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(
            b"GET /v1/me/player/recently-played HTTP/1.1\r\nHost: localhost\r\n"
            b"Authorization: " + authorization.encode() + b"\r\n\r\n"
        )
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    return received


def test_a_connection_is_reset_before_the_first_byte(
    simulator: Simulator, listener: ListenerClient
) -> None:
    simulator.add_fault(wire.ConnectionReset())
    with pytest.raises(ConnectionResetError):
        raw_answer(simulator, listener)


def test_a_connection_is_reset_within_the_body(
    simulator: Simulator, listener: ListenerClient
) -> None:
    simulator.add_fault(wire.ConnectionReset(after_bytes=100))
    with pytest.raises(requests.RequestException):
        listener.recently()


def test_a_connection_ends_without_an_answer(
    simulator: Simulator, listener: ListenerClient
) -> None:
    simulator.add_fault(wire.NoAnswer())
    assert raw_answer(simulator, listener) == b""


def test_a_body_that_ends_with_the_connection_arrives_as_200_and_broken_json(
    simulator: Simulator, listener: ListenerClient
) -> None:
    simulator.add_fault(wire.Truncated("close"))
    answer = listener.recently()
    assert answer.status_code == 200
    assert answer.text.startswith('{"items": [')
    with pytest.raises(requests.JSONDecodeError):
        answer.json()


@pytest.mark.parametrize("ended_by", ["length", "chunks"])
def test_a_body_that_is_shorter_than_promised_is_an_error_of_the_connection(
    simulator: Simulator, listener: ListenerClient, ended_by: str
) -> None:
    simulator.add_fault(wire.Truncated(ended_by))  # type: ignore[arg-type]
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        listener.recently()


@pytest.mark.parametrize("part", ["header", "body"])
def test_a_dribbling_answer_outlives_the_time_out_between_bytes(
    simulator: Simulator, listener: ListenerClient, part: str
) -> None:
    simulator.add_fault(wire.SlowLoris(pause_seconds=0.05, seconds=1.5, part=part))  # type: ignore[arg-type]
    started = time.monotonic()
    # An endless header is an error once the connection ends.
    with contextlib.suppress(requests.RequestException):
        listener.recently(limit=1)
    assert time.monotonic() - started > 1.4


def test_a_dribbling_response_does_not_delay_other_calls(
    simulator: Simulator, listener: ListenerClient, add_listener: AddListener
) -> None:
    other = add_listener()
    simulator.add_fault(wire.SlowLoris(0.05), user_id=listener.user_id)
    with listener.get("/v1/me", stream=True):
        assert other.recently().status_code == 200


@pytest.mark.parametrize("compressed", [False, True])
def test_a_huge_body_comes_in_pieces(
    simulator: Simulator, listener: ListenerClient, *, compressed: bool
) -> None:
    simulator.add_fault(wire.HugeBody(megabytes=20, compressed=compressed))
    with listener.get("/v1/me", stream=True) as answer:
        assert answer.status_code == 200
        size = sum(len(piece) for piece in answer.iter_content(1 << 16))
    assert size > 20 << 20


def test_a_client_can_abort_a_huge_body(simulator: Simulator, listener: ListenerClient) -> None:
    simulator.add_fault(wire.HugeBody(), times=1)
    with listener.get("/v1/me", stream=True) as answer:
        assert next(answer.iter_content(1 << 16))


def test_no_answer_is_an_error_of_the_connection(
    simulator: Simulator, listener: ListenerClient
) -> None:
    simulator.add_fault(wire.NoAnswer())
    with pytest.raises(requests.ConnectionError):
        listener.recently()


def test_an_aborted_response_does_not_count_as_served(
    simulator: Simulator, add_listener: AddListener
) -> None:
    listener = add_listener()
    listener.authorization()
    simulator.add_fault(wire.Truncated(), endpoint="recently_played")
    listener.recently()
    assert not any(line.served for line in simulator.ledger(listener.user_id))
    simulator.clear_faults()
    listener.recently(limit=5)
    assert sum(line.served for line in simulator.ledger(listener.user_id)) == 5
