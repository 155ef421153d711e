"""Relay one model call: to the upstream, and its answer back."""

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final, Literal, TypeAlias

import aiohttp
from aiohttp import hdrs, web
from yarl import URL

from otel_intercept import failure as failures
from otel_intercept.errors import NotIntercepted
from otel_intercept.exchange import Exchange
from otel_intercept.middleware import exchange_from
from otel_intercept.registry import is_rollout_id
from otel_intercept.semconv import Dialect, Phase
from otel_intercept.server.answers import failed, read_body, refuse
from otel_intercept.server.relay.passing import pass_on
from otel_intercept.server.relay.upstream_answer import (
    UpstreamRefused,
    parse_object,
    read_error,
    words_of,
)
from otel_intercept.server.relay.wire import request_headers, retry_headers, target_url

ErrorBodies: TypeAlias = Literal["redact", "pass"]
"""What of an upstream's error reaches the agent: its status alone, or all of it."""

RAW_BODIES: Final = web.AppKey("otel_intercept.raw_bodies", bool)
"""Whether request bodies come as they were sent, that is, still compressed."""

_SESSION: Final = web.AppKey("otel_intercept.session", aiohttp.ClientSession)
_DECOMPRESSED: Final = frozenset({"gzip", "deflate", "br", "zstd"})
# uvicorn closes idle connections after 5 s, and a call must not be sent twice.
_KEEP_ALIVE_S: Final = 4.0
_WATCH_S: Final = 0.25


class RelayCalls:
    """The handler of the relayed routes, with its connections to the upstream.

    Args:
        base: What ``/v1/`` and the rest of the path are appended to.
        upstream_key: Sent in place of the agent's credential, if given.
        error_bodies: What of an upstream's error reaches the agent.
        timeout: How long to wait for the upstream.
    """

    def __init__(
        self,
        base: str,
        *,
        upstream_key: str | None,
        error_bodies: ErrorBodies,
        timeout: aiohttp.ClientTimeout,
    ) -> None:
        self._base = base
        self._upstream_key = upstream_key
        self._passes_errors = error_bodies == "pass"
        self._timeout = timeout

    async def serve(self, app: web.Application) -> AsyncIterator[None]:
        """Hold the connections to the upstream for as long as the app is served."""
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            auto_decompress=False,
            skip_auto_headers=(hdrs.ACCEPT, hdrs.CONTENT_TYPE, hdrs.USER_AGENT),
        )
        async with session:
            app[_SESSION] = session
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Relay one request.

        Raises:
            aiohttp.ClientError, TimeoutError: The upstream failed after the answer had
                begun; the middleware cuts the agent's connection.
        """
        try:
            exchange = exchange_from(request)
        except NotIntercepted:
            return _not_open(request.match_info["rollout_id"])
        url = target_url(self._base, request)
        if url is None:
            return refuse(400, "dot segments are not relayed")
        body = await read_body(request)
        if isinstance(body, web.Response):
            return body
        described = parse_object(body)
        if described is not None:
            exchange.describe_request(described)
        with _cancelled_when_agent_leaves(request):
            return await self._call(request, exchange, url, body)

    async def _call(
        self, request: web.Request, exchange: Exchange, url: URL, body: bytes
    ) -> web.StreamResponse:
        upstream: aiohttp.ClientResponse | None = None
        beginning = b""
        try:
            with exchange.upstream_call():
                upstream = await self._request(request, exchange, url, body)
                if upstream.status < 400:
                    return await pass_on(request, exchange, upstream)
                beginning = await read_error(upstream)
                _raise_if_failed(exchange, upstream.status, beginning)
            return await self._refused(request, exchange, upstream, beginning)
        except UpstreamRefused:
            if upstream is None:
                raise
            return await self._refused(request, exchange, upstream, beginning)
        except (aiohttp.ClientError, OSError) as exc:
            if exchange.answer_begun:
                raise
            failures.triage(exc, exchange.rollout.rollout_id)
            status = 504 if isinstance(exc, TimeoutError) else 502
            return failed(exchange, exchange.failure, status)
        finally:
            if upstream is not None:
                upstream.close()

    async def _request(
        self, request: web.Request, exchange: Exchange, url: URL, body: bytes
    ) -> aiohttp.ClientResponse:
        headers = request_headers(
            request.headers, exchange.request.dialect, self._upstream_key
        )
        encoding = headers.get(hdrs.CONTENT_ENCODING, "").lower()
        if encoding in _DECOMPRESSED and not request.app[RAW_BODIES]:
            del headers[hdrs.CONTENT_ENCODING]
        return await request.app[_SESSION].request(
            request.method,
            url,
            headers=headers,
            # aiohttp warns of large bytes, not of the same in a file.
            data=io.BytesIO(body) if body or request.body_exists else None,
            allow_redirects=False,
        )

    async def _refused(
        self,
        request: web.Request,
        exchange: Exchange,
        upstream: aiohttp.ClientResponse,
        beginning: bytes,
    ) -> web.StreamResponse:
        if self._passes_errors:
            return await pass_on(request, exchange, upstream, beginning)
        failure = exchange.failure or failures.from_status(
            upstream.status,
            phase=Phase.UPSTREAM_CALL,
            key=exchange.rollout.fingerprint_key,
        )
        answer = failed(exchange, failure, upstream.status)
        answer.headers.update(retry_headers(upstream.headers))
        return answer


def _not_open(rollout_id: str) -> web.Response:
    if is_rollout_id(rollout_id):
        return refuse(503, "too many rollouts are open")
    return refuse(400, "a rollout id has 1 to 256 characters")


def _raise_if_failed(exchange: Exchange, status: int, beginning: bytes) -> None:
    # Agents probe for endpoints; only a model call that is refused is a failure.
    probing = exchange.request.dialect is Dialect.OTHER and status < 500
    if not probing:
        raise UpstreamRefused(status, words_of(parse_object(beginning)))


@contextmanager
def _cancelled_when_agent_leaves(request: web.Request) -> Iterator[None]:
    """Cancel the task of a block whose agent is gone: its call would be billed."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    timer: asyncio.TimerHandle | None = None

    def check() -> None:
        nonlocal timer
        transport = request.transport
        if transport is not None and not transport.is_closing():
            timer = loop.call_later(_WATCH_S, check)
        elif task is not None:
            task.cancel()

    check()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()
