"""The HTTP server: uvicorn, with what it lacks against slow clients, and an end that loses no request.

Comes in: an app and where to listen. Goes out: nothing until SIGTERM or Ctrl-C; then the server says that it is not
ready, answers for a while what still comes, takes no more, answers what it has, and ends.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.serving.settings import ServeSettings

#: Bytes of a request before its body.
MAX_HEADER_BYTES = 64 << 10
#: Bytes of a body that are read after its answer, which the client may look for only when it has sent all.
MAX_REST_BYTES = 64 << 20
#: Seconds for which a connection without a request is kept, and within which a client takes what it is sent.
KEEP_ALIVE_S, TAKES_S = 30, 30


def listen(settings: ServeSettings) -> socket.socket:
    """The socket of ``settings``. Errors: UserError where it is taken, or no address of this machine."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        raise UserError(
            f"Nothing can listen at {settings.host}, port {settings.port} ({one_line(error)}): give others by --host "
            "and --port."
        ) from error
    return listener


def server_of(app: Starlette, settings: ServeSettings, on_start: Callable[[], Any]) -> Server:
    """A server of ``app``, whose ``run(sockets=[listener])`` answers requests until SIGTERM or SIGINT.

    ``on_start`` is called when it begins to.
    """
    config = uvicorn.Config(
        app,
        http=_protocol(settings),
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_config=None,
        log_level="error",  # what a client writes that is no HTTP is no news
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.timeout_s) + 1,
    )
    return Server(config, app.state.service, on_start)


class Server(uvicorn.Server):
    """Ends in two steps: for ``drain_s`` it answers as before but says that it is ending; then uvicorn's own end."""

    def __init__(self, config: uvicorn.Config, service: Any, on_start: Callable[[], Any]) -> None:
        super().__init__(config)
        self._service, self._on_start = service, on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it."""
        await super().startup(sockets)
        self._on_start()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does it, but that the signal is not raised once more: the end was in order."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; a second Ctrl-C waits for nothing."""
        if self._service.draining:
            self.should_exit, self.force_exit = True, sig == signal.SIGINT
        self._service.draining = True

    async def on_tick(self, counter: int) -> bool:
        """A tenth of a second; whether to end now."""
        if self._service.draining and not self.should_exit:
            await asyncio.sleep(self._service.settings.drain_s)
            self.should_exit = True
        return await super().on_tick(counter)


def _protocol(settings: ServeSettings) -> type[HttpToolsProtocol]:
    """A protocol class of one server, whose connections know each other."""

    names = ("header_s", "body_s", "max_connections")
    shared: dict[str, Any] = {name: getattr(settings, name) for name in names}
    return type("Protocol", (GuardedProtocol,), shared | {"await_client": {}})


class GuardedProtocol(HttpToolsProtocol):
    """A connection that cannot be held by a client that says nothing, or says it slowly.

    From its first byte on, and from its opening on, a request's headers are there in ``header_s`` seconds and
    :data:`MAX_HEADER_BYTES`, or the connection is closed. Of more than ``max_connections`` the one is closed that has
    waited longest for its client: for a request, or the rest of one. The rest of a body whose answer is sent already is
    read for ``body_s`` and :data:`MAX_REST_BYTES`, and thrown away: a connection that is closed with bytes unread is
    reset, and the answer lost.
    """

    header_s: float
    body_s: float
    max_connections: int
    await_client: dict[GuardedProtocol, None]
    _deadline: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _is_in_body = _ends_with_body = False
    _rest: asyncio.TimerHandle | None = None
    _rest_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT") and connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TAKES_S * 1000)
        self._wait()
        if len(self.connections) > self.max_connections and self.await_client:
            next(iter(self.await_client)).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read on, unless what is read is no header any more, or more of a body than is thrown away."""
        if self._rest is not None:
            self._rest_bytes += len(data)
            if self._rest_bytes > MAX_REST_BYTES:
                self.transport.close()
                return
        elif self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._wait()
        if self._deadline is not None:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._deadline is not None and self._header_bytes > MAX_HEADER_BYTES:
            self._close(431, "Request Header Fields Too Large", "The headers have more than 65,536 bytes.")

    def on_headers_complete(self) -> None:
        """The client has said what it wants; how long its body takes is for the app to say."""
        self._stop_clock()
        self._unset_keepalive_if_required()  # which the request before began to keep, if both came together
        self._is_in_body = True
        super().on_headers_complete()
        self.cycle.transport = cast(asyncio.Transport, _OfAnswer(self))

    def on_message_complete(self) -> None:
        """The whole request is there."""
        self._is_in_body = False
        self.await_client.pop(self, None)
        super().on_message_complete()
        if self._stop_rest():  # the answer is sent
            if self._ends_with_body:
                self.transport.close()
                return
            self.await_client[self] = None
            self.timeout_keep_alive_task = self.loop.call_later(KEEP_ALIVE_S, self.timeout_keep_alive_handler)

    def close_in_order(self) -> None:
        """Close the connection, but if a body is still coming whose answer is sent, only after it."""
        if self._is_in_body and self.cycle.response_complete:
            self._ends_with_body = True
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_clock()
        self._stop_rest()
        self.await_client.pop(self, None)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """The connection may be closed again for one with a request."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():  # else another was there already
            self.await_client[self] = None
            if self._is_in_body:
                self._rest, self._rest_bytes = self.loop.call_later(self.body_s, self.transport.close), 0

    def _stop_rest(self) -> bool:
        """Whether the rest of a body was being thrown away, which ends."""
        rest, self._rest = self._rest, None
        if rest is not None:
            rest.cancel()
        return rest is not None

    def _wait(self) -> None:
        self._header_bytes = 0
        self._deadline = self.loop.call_later(self.header_s, self._too_slow)
        self.await_client[self] = None

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._close(408, "Request Timeout", f"No request was there after {self.header_s:g} s.")

    def _close(self, status: int, reason: str, sentence: str) -> None:
        if not self.transport.is_closing():
            content = f'{{"error":"{sentence}"}}'
            self.transport.write(
                f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\nconnection: close\r\n"
                f"content-length: {len(content)}\r\n\r\n{content}".encode()
            )
            self.transport.close()


class _OfAnswer:
    """The transport that an answer is written to; it closes the connection in order."""

    def __init__(self, protocol: GuardedProtocol) -> None:
        self._protocol = protocol

    def close(self) -> None:
        self._protocol.close_in_order()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol.transport, name)
