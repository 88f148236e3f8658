"""One transport serves all threads: connections are shared and answers are not mixed up."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor

from spotify_pipeline.spotify.http import Transport
from spotify_pipeline.spotify.messages import BaseUrl, Request
from spotify_pipeline_tests.spotify.conftest import SMALL


def test_sixteen_threads_get_their_own_answers_over_at_most_sixteen_connections(server):
    seen_by_connection = {}

    def echo(connection):
        """Answers with the token of the request that came last on this connection."""
        token = re.search(r"token-\d+", seen_by_connection[threading.get_ident()]).group()
        body = json.dumps({"token": token}).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return True

    class Recording(list):
        def append(self, request):
            seen_by_connection[threading.get_ident()] = request.headers["authorization"]
            super().append(request)

    server.seen = Recording()
    server.script(echo)
    transport = Transport(limits=SMALL, connections=16)
    base = BaseUrl.parse(server.url)

    def call(number: int) -> bool:
        token = f"token-{number}"
        request = Request("profile", "GET", base, "/v1/me", authorization=f"Bearer {token}")
        return transport.send(request).payload == {"token": token}

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(call, range(400)))
    assert server.connections <= 16
    assert len(server.seen) == 400
