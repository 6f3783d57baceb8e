"""The routes of a server, over a :class:`Backend` that tags. No Ray, and no HTTP server: any ASGI server runs it.

    POST /v1/tag    GET /v1/labels    /healthz    /readyz    /metrics    /openapi.json    / (the page)

Whatever a client sends is answered with 4xx and one sentence, {"error": "…"}, where it is no request.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ezxmc_ray.serving.batching import Batcher
from ezxmc_ray.serving.contract import Answer, Refused, TagRequest, check_pairs, openapi, read_limit, read_request
from ezxmc_ray.serving.in_process import Backend
from ezxmc_ray.serving.metrics import Metrics
from ezxmc_ray.serving.settings import LOOPBACK, ServeSettings
from ezxmc_ray.shown import shown

#: Without the token too: nothing of the run is in them.
OPEN = ("/", "/healthz", "/readyz", "/openapi.json")
MAX_QUERY = 1000
#: Labels of an answer that are written at once: 2 ms.
LABELS_AT_ONCE = 1000
HEADERS = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


class Service:
    """What the routes share. ``draining``: the server is about to end, and says so to who asks whether it is ready."""

    def __init__(self, backend: Backend, settings: ServeSettings) -> None:
        self.backend, self.settings, self.draining = backend, settings, False
        self.batcher = Batcher(
            backend.tag,
            lambda: backend.slots,
            settings.max_batch_size,
            settings.batch_wait_ms / 1000,
            settings.max_waiting_texts,
            lambda texts: self.metrics.batch_texts.observe(texts),
        )
        self.metrics = Metrics(lambda: self.batcher.waiting, lambda: backend.slots)
        self._page, self._page_policy = _page()
        self._openapi = openapi(settings)
        self._held_bytes = 0

    async def tag(self, request: Request) -> Response:
        """POST /v1/tag."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "The body must be JSON: send the header Content-Type: application/json.")
        with ExitStack() as answered:
            asked = read_request(await self._body(request, answered), self.settings)
            answer = await self._answer(request, asked)
        if answer.mistake is not None:
            raise Refused(422, answer.mistake)
        self.metrics.texts.inc(len(asked.texts))
        return await _as_json(answer)

    async def _body(self, request: Request, answered: ExitStack) -> bytes:
        """The body of a request, whose bytes count until ``answered`` ends.

        Errors: Refused for one that is too large or too slow, or where others hold too much; ClientDisconnect.
        """
        limit = self.settings.max_body_bytes
        told = request.headers.get("content-length", "")
        if told.isascii() and told.isdigit() and int(told[:19]) > limit:
            raise _too_large(limit)
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.settings.body_s):
                async for part in request.stream():
                    size += len(part)
                    if size > limit:
                        raise _too_large(limit)
                    if self._held_bytes + len(part) > self.settings.max_held_bytes:
                        raise Refused(429, "Too many bytes of requests are waiting: try again in a few seconds.")
                    self._held_bytes += len(part)
                    answered.callback(self._let_go, len(part))
                    parts.append(part)
        except TimeoutError:
            raise Refused(408, f"The body was not there after {self.settings.body_s:g} s.") from None
        return b"".join(parts)

    def _let_go(self, count: int) -> None:
        self._held_bytes -= count

    async def _answer(self, request: Request, asked: TagRequest) -> Answer:
        """Errors: Refused where it takes too long; ClientDisconnect where nobody waits for it any more."""
        work = asyncio.ensure_future(self._tagged(asked))
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({work, gone}, timeout=self.settings.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if gone.done():
                raise ClientDisconnect
            raise Refused(503, f"Not done within {self.settings.timeout_s:g} s: send fewer texts, or try again later.")
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _tagged(self, asked: TagRequest) -> Answer:
        """Errors: Refused for more pairs than a request may have; those of the batcher."""
        if len(asked.texts) > 1:  # a text by itself is always read
            among = asked.options.among
            pairs = await self.backend.pairs_of_text(None if among is None else len(among))
            check_pairs(len(asked.texts), pairs, self.settings)
        return await self.batcher.tag(asked)

    async def labels(self, request: Request) -> Response:
        """GET /v1/labels."""
        query = request.query_params.get("query", "")
        if len(query) > MAX_QUERY:
            raise Refused(422, f"query has {len(query):,} characters, {MAX_QUERY:,} are taken.")
        limit = read_limit(request.query_params.get("limit"))
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                return JSONResponse(await self.backend.find_labels(query, limit))
        except TimeoutError:
            raise Refused(503, f"Not done within {self.settings.timeout_s:g} s: try again later.") from None

    async def healthz(self, request: Request) -> Response:
        """GET /healthz."""
        return JSONResponse({"alive": True})

    async def readyz(self, request: Request) -> Response:
        """GET /readyz."""
        if self.draining:
            raise Refused(503, "The server is ending.")
        if not self.backend.slots:
            raise Refused(503, "No replica is ready.")
        return JSONResponse({"ready": True})

    async def figures(self, request: Request) -> Response:
        """GET /metrics."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def describe(self, request: Request) -> Response:
        """GET /openapi.json."""
        return JSONResponse(self._openapi)

    async def page(self, request: Request) -> Response:
        """GET /."""
        return Response(
            self._page, media_type="text/html; charset=utf-8", headers={"content-security-policy": self._page_policy}
        )


def create_app(backend: Backend, settings: ServeSettings) -> Starlette:
    """The app over ``backend``; its state's ``service`` is the :class:`Service`."""
    service = Service(backend, settings)
    routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("/v1/tag", "POST", service.tag),
        ("/v1/labels", "GET", service.labels),
        ("/healthz", "GET", service.healthz),
        ("/readyz", "GET", service.readyz),
        ("/metrics", "GET", service.figures),
        ("/openapi.json", "GET", service.describe),
        ("/", "GET", service.page),
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await service.batcher.close()
        backend.close()

    app = Starlette(
        routes=[Route(path, route, methods=[method]) for path, method, route in routes],
        lifespan=lifespan,
        exception_handlers={Refused: _refused, HTTPException: _http_error, ClientDisconnect: _gone},
    )
    app.router.redirect_slashes = False
    app.add_middleware(Guard, service=service, known={path for path, _, _ in routes})
    app.state.service = service
    return app


class Guard:
    """Outside of all routes: who may ask, what every answer carries, how long it took, and faults."""

    def __init__(self, app: ASGIApp, service: Service, known: set[str]) -> None:
        self._app, self._service, self._known = app, service, known
        token = service.settings.token
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI app."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in self._known else "other"
        began, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *HEADERS]
                if self._service.draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            refused = self._refused(scope)
            if refused is not None:
                await _error(refused.status, refused.sentence)(scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
        except Exception as error:
            print(shown("".join(traceback.format_exception(error))), end="", file=sys.stderr, flush=True)
            if not status:
                await _error(500, "A fault of the server, whose log says more.")(scope, receive, answer)
        finally:
            metrics = self._service.metrics
            metrics.requests.labels(route, str(status or 499)).inc()
            metrics.seconds.labels(route).observe(time.perf_counter() - began)

    def _refused(self, scope: Scope) -> Refused | None:
        headers = dict(scope["headers"])
        if self._expected is None and self._service.settings.is_loopback and not _names_this_machine(headers):
            # A page from elsewhere may have made its own name one of this machine (DNS rebinding).
            return Refused(421, "This server answers to 127.0.0.1 and localhost: see ezxmc serve --host.")
        if self._expected is None or scope["path"] in OPEN:
            return None
        if hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            return None
        return Refused(401, "Give the server's token: send the header Authorization: Bearer TOKEN.")


def _names_this_machine(headers: dict[bytes, bytes]) -> bool:
    host = headers.get(b"host", b"").decode("latin-1").lower()
    return re.sub(r":\d*$", "", host).strip("[]") in LOOPBACK


def _too_large(limit: int) -> Refused:
    return Refused(413, f"The body has more than {limit:,} bytes: send several requests.")


async def _as_json(answer: Answer) -> Response:
    """As a JSONResponse; others have their turn between its parts, since making JSON holds the whole process."""
    rows, labels = list[str](), 0
    for row in answer.results:
        rows.append(json.dumps({"labels": row}, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
        labels += len(row)
        if labels >= LABELS_AT_ONCE:
            labels = 0
            await asyncio.sleep(0)
    body = f'{{"export":{json.dumps(answer.export)},"results":[{",".join(rows)}]}}'
    return Response(body, media_type="application/json")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _error(status: int, sentence: str) -> JSONResponse:
    headers = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "2"}, 503: {"retry-after": "2"}}.get(status)
    return JSONResponse({"error": sentence}, status, headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _error(error.status, error.sentence)


async def _gone(request: Request, error: Exception) -> Response:
    return _error(499, "The client left.")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {
        404: "There is nothing here: see /openapi.json.",
        405: "This method is not for this path: see /openapi.json.",
    }
    answer = _error(error.status_code, sentences.get(error.status_code, str(error.detail)))
    answer.headers.update(error.headers or {})
    return answer


def _page() -> tuple[bytes, str]:
    """The page, and a policy by which a browser runs its own script and style and nothing else."""
    content = files(__package__).joinpath("page.html").read_bytes()
    hashes: dict[str, Any] = {
        tag: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(part).digest()).decode()}'"
            for part in re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), content, re.DOTALL)
        )
        for tag in ("script", "style")
    }
    policy = {
        "default-src": "'none'",
        "script-src": hashes["script"],
        "style-src": hashes["style"],
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return content, "; ".join(f"{name} {value}" for name, value in policy.items())
