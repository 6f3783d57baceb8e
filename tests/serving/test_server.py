"""The HTTP server on a real socket: slow clients, too many of them, and an end that loses nothing."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from ezxmc_ray.errors import UserError
from ezxmc_ray.serving import server as server_module
from ezxmc_ray.serving.app import create_app
from ezxmc_ray.serving.in_process import InProcess
from ezxmc_ray.serving.server import Server, listen, server_of
from ezxmc_ray.serving.settings import ServeSettings

from .conftest import FakeTagger, live


@contextmanager
def serves(tagger: FakeTagger | None = None, **given: Any) -> Iterator[tuple[int, Server]]:
    """A server in a thread: its port, and the server itself."""
    settings = ServeSettings(**({"port": 0, "drain_s": 0} | given))
    app = create_app(InProcess(live(tagger or FakeTagger())), settings)
    started = threading.Event()
    server = server_of(app, settings, started.set)
    with listen(settings) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        assert started.wait(10)
        try:
            yield port, server
        finally:
            server.handle_exit(signal.SIGTERM, None)
            thread.join(20)
            assert not thread.is_alive()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def rest(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def is_ready(port: int) -> bool:
    return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200


@pytest.mark.parametrize("said", [b"", b"\r\n", b"POST /v1/tag HTTP/1.1\r\nhost: local"])
def test_who_does_not_say_what_he_wants_is_not_waited_for(said: bytes) -> None:
    with serves(header_s=0.3) as (port, _), connect(port) as connection:
        connection.sendall(said)
        began = time.monotonic()
        assert rest(connection).startswith(b"HTTP/1.1 408 ") and time.monotonic() - began < 5
        assert is_ready(port)


def test_a_header_that_drips_does_not_put_off_its_end() -> None:
    with serves(header_s=0.3) as (port, _), connect(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        until = time.monotonic() + 5
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < until:
                connection.sendall(b"x-a: b\r\n")
                time.sleep(0.05)
        assert time.monotonic() < until


def test_headers_without_end_are_cut() -> None:
    with serves() as (port, _), connect(port) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\nx: " + b"y" * 200_000)
        answer = rest(connection)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
        assert is_ready(port)


def test_a_body_that_drips_is_waited_for_no_longer() -> None:
    head = b"POST /v1/tag HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
    with serves(body_s=0.3) as (port, _), connect(port) as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
        assert is_ready(port)


def test_many_slow_clients_leave_room_for_one_with_a_request() -> None:
    """Slowloris: more open connections than are taken, none of which says anything."""
    with serves(max_connections=20, header_s=30) as (port, _), contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(port)) for _ in range(60)]
        assert is_ready(port)
        assert rest(silent[0]) == b""  # the first one is gone
        silent[-1].sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert rest(silent[-1]).startswith(b"HTTP/1.1 200 ")


def test_many_bodies_that_do_not_come_leave_room_for_a_request() -> None:
    head = b"POST /v1/tag HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
    with serves(max_connections=20, body_s=30) as (port, _), contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(port)) for _ in range(60)]
        for connection in slow:
            with contextlib.suppress(ConnectionError):
                connection.sendall(head)
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/tag", json={"texts": ["a"]})
        assert answer.status_code == 200 and rest(slow[0]) == b""


def test_what_is_no_http_gets_400() -> None:
    with serves() as (port, _), connect(port) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 400 ")


def test_ten_megabytes_are_refused_with_a_sentence_that_the_client_reads() -> None:
    with serves() as (port, _):
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/tag", content=b"x" * 10_000_000, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 413 and "bytes" in answer.json()["error"]


def post(port: int, size: int, **headers: str) -> int:
    """The status that the standard library gets for a body of ``size``, all of which it sends before it reads."""
    told = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/tag",
        b'{"texts":["' + b"a" * size + b'"]}',
        {"content-type": "application/json", "authorization": "Bearer secret"} | headers,
    )
    try:
        with urllib.request.urlopen(told, timeout=30) as answer:  # which closes the connection
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("size", [100_000, 1_000_000, 6_000_000, 20_000_000])
def test_who_sends_all_before_he_reads_is_told_what_was_wrong(size: int) -> None:
    body = b"x" * size
    with serves(token="secret") as (port, _):
        assert post(port, size, authorization="Bearer wrong") == 401
        assert post(port, size, **{"content-type": "text/plain"}) == 415
        assert post(port, size) == (200 if size < 2_000_000 else 413)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for _ in range(3):  # on one connection
            connection.request("POST", "/v1/tag", body, {"content-type": "text/plain"})
            answer = connection.getresponse()
            assert answer.status == 401 and b"token" in answer.read()
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            assert answer.status == 200 and answer.read()
        connection.close()


def test_a_body_that_does_not_end_after_its_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"POST /v1/tag HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n"
    with serves(body_s=0.3) as (port, _), connect(port) as connection:
        connection.sendall(head + b"content-length: 9999\r\n\r\nx")
        began = time.monotonic()
        assert rest(connection).startswith(b"HTTP/1.1 415 ") and 0.2 < time.monotonic() - began < 5
    monkeypatch.setattr(server_module, "MAX_REST_BYTES", 1_000_000)
    with serves() as (port, _), connect(port) as connection:
        connection.sendall(head + b"content-length: 999999999\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 415 ")
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() < began + 10:
                connection.sendall(b"x" * 65536)
        assert is_ready(port)


def test_headers_after_a_body_that_was_thrown_away_are_waited_for_no_longer() -> None:
    head = b"POST /v1/tag HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\n"
    with serves(header_s=0.3) as (port, _), connect(port) as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 415 ")
        connection.sendall(b"xxxxx")
        time.sleep(0.1)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: local")
        assert b"HTTP/1.1 408 " in rest(connection)


def test_a_request_that_came_with_the_rest_of_a_refused_body_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "KEEP_ALIVE_S", 0.2)
    refused = b"POST /v1/tag HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\n"
    body = json.dumps({"texts": ["a"]}).encode()
    head = "POST /v1/tag HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
    asked = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    with serves(FakeTagger(seconds=0.6)) as (port, _), connect(port) as connection:
        connection.sendall(refused)
        assert connection.recv(65536).startswith(b"HTTP/1.1 415 ")
        connection.sendall(b"xxxxx" + asked)  # in one segment
        assert b"HTTP/1.1 200 " in rest(connection)


def test_the_end_answers_what_was_begun_and_what_still_comes_but_says_that_it_ends() -> None:
    with serves(FakeTagger(seconds=0.5), drain_s=1.5) as (port, server):
        url, answers = f"http://127.0.0.1:{port}", []
        with httpx.Client(base_url=url) as client:
            begun = threading.Thread(target=lambda: answers.append(client.post("/v1/tag", json={"texts": ["a"]})))
            begun.start()
            time.sleep(0.1)
            server.handle_exit(signal.SIGTERM, None)
            time.sleep(0.02)
            late = httpx.get(f"{url}/readyz")
            assert late.status_code == 503 and late.headers["connection"] == "close"
            answers.append(httpx.post(f"{url}/v1/tag", json={"texts": ["late"]}))
            begun.join()
        assert [one.status_code for one in answers] == [200, 200]
        until = time.monotonic() + 10
        with contextlib.suppress(OSError):
            while time.monotonic() < until:
                connect(port).close()
                time.sleep(0.05)
        assert time.monotonic() < until  # nobody listens any more


def test_a_port_that_is_taken_is_told() -> None:
    with listen(ServeSettings(port=0)) as listener:
        taken = ServeSettings(port=listener.getsockname()[1])
        with pytest.raises(UserError, match=r"^Nothing can listen at 127\.0\.0\.1, port \d+ \(.+\): give others"):
            listen(taken)


def test_a_connection_that_is_kept_serves_several_requests() -> None:
    with serves(header_s=0.3) as (port, _), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for number in range(3):
            time.sleep(0.4 * bool(number))  # longer than a header may take
            assert client.post("/v1/tag", json={"texts": ["a"]}).json()["export"] == "export-1"
        [connection] = client._transport._pool.connections  # type: ignore[attr-defined]
        assert json.dumps(connection.info()).count("Request Count: 3") == 1
