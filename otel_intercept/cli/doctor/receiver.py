"""Take in the telemetry of the app that is examined: an OTLP receiver, or its file."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final, Protocol

from aiohttp import web

from otel_intercept import semconv
from otel_intercept.cli.demo.upstream import serving
from otel_intercept.sdk import SpanLine, read_spans
from otel_intercept.sdk.otlp_proto import spans_of_request, sum_of_request
from otel_intercept.semconv import ExchangeOutcome

_MAX_BODY: Final = 67_108_864
_REJECTED: Final = {semconv.EXCHANGE_OUTCOME: ExchangeOutcome.REJECTED.value}
_PROTOBUF: Final = "application/x-protobuf"
_LOOK_S: Final = 0.25


class Sight(Protocol):
    """What has been seen so far."""

    @property
    def rejected(self) -> int:
        """How many requests were counted as rejected."""
        ...

    def spans(self) -> tuple[SpanLine, ...]:
        """Return every span so far."""
        ...

    def planted_seen(self) -> bool:
        """Return whether one of the planted secrets has come."""
        ...

    async def wait_for(self, links: AbstractSet[str], timeout_s: float) -> None:
        """Wait until spans link to all of these span ids, or the time is over."""
        ...


class Receiver:
    """An OTLP/HTTP receiver.

    Args:
        planted: The secrets to look for.
    """

    def __init__(self, planted: tuple[bytes, ...]) -> None:
        self._planted = planted
        self._spans: list[SpanLine] = []
        self._series: dict[tuple[str, ...], float] = {}
        self._has_planted = False
        self._news = asyncio.Condition()

    @property
    def rejected(self) -> int:
        """How many requests were counted as rejected."""
        return int(sum(self._series.values()))

    def spans(self) -> tuple[SpanLine, ...]:
        """Return every span so far."""
        return tuple(self._spans)

    def planted_seen(self) -> bool:
        """Return whether one of the planted secrets has come."""
        return self._has_planted

    async def wait_for(self, links: AbstractSet[str], timeout_s: float) -> None:
        """Wait until spans link to all of these span ids, or the time is over."""
        # In small waits, so that one in which the machine stands still is one of many.
        for _ in range(int(timeout_s / _LOOK_S)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S), self._news:
                    await self._news.wait_for(lambda: links <= _linked(self._spans))
                    return

    def app(self) -> web.Application:
        """Return the app that receives."""
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_post("/{path:.*}", self._take)
        return app

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        async with self._news:
            self._has_planted |= any(secret in body for secret in self._planted)
            if request.path.endswith("/traces"):
                self._spans += spans_of_request(body) or ()
            elif request.path.endswith("/metrics"):
                name = semconv.EXCHANGES.name
                self._series |= sum_of_request(body, name, _REJECTED) or {}
            self._news.notify_all()
        return web.Response(content_type=_PROTOBUF)


@contextlib.asynccontextmanager
async def receiving(receiver: Receiver, *, port: int) -> AsyncIterator[str]:
    """Receive on loopback for the length of a block; give the endpoint.

    Raises:
        OSError: The port cannot be listened on.
    """
    async with serving(receiver.app(), port=port) as url:
        yield url


class FileSight:
    """What the app writes to its ``OTEL_INTERCEPT_FILE``.

    Args:
        path: The file.
        since_ns: When doctor began; what is older is not looked at.
        planted: The secrets to look for.
    """

    rejected: Final = 0

    def __init__(self, path: Path, since_ns: int, planted: tuple[bytes, ...]) -> None:
        self._path = path
        self._since_ns = since_ns
        self._planted = planted

    def spans(self) -> tuple[SpanLine, ...]:
        """Return every span so far.

        Raises:
            ConfigurationError: The file cannot be read, or is none of OTLP JSON lines.
        """
        return tuple(
            span for span in read_spans(self._path) if span.end_ns >= self._since_ns
        )

    def planted_seen(self) -> bool:
        """Return whether one of the planted secrets stands in the file."""
        with self._path.open("rb") as file:
            return any(secret in line for line in file for secret in self._planted)

    async def wait_for(self, links: AbstractSet[str], timeout_s: float) -> None:
        """Wait until spans link to all of these span ids, or the time is over."""
        for _ in range(int(timeout_s / _LOOK_S)):
            if links <= _linked(self.spans()):
                return
            await asyncio.sleep(_LOOK_S)


def _linked(spans: "tuple[SpanLine, ...] | list[SpanLine]") -> set[str]:
    return {link for span in spans for link in span.linked_span_ids}
