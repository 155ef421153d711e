"""Send an answer that is there in one piece in one step, as aiohttp was seen to do it.

aiohttp takes ten coroutines for it. Here it sends one of each kind itself, to nobody,
once in each second in which any is sent: what it has written and noted then is written
and noted of the others. What may have more to it is left to aiohttp.
"""

import asyncio
from asyncio import Transport
from collections.abc import Mapping
from math import floor
from time import time
from typing import Final, NamedTuple, TypeAlias

from aiohttp import EMPTY_PAYLOAD, web
from aiohttp.hdrs import CONTENT_LENGTH
from aiohttp.http import HttpVersion, RawRequestMessage, StreamWriter
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from otel_intercept.exchange import Exchange
from otel_intercept.middleware.known import KnownWay
from otel_intercept.middleware.trial import (
    TrialTransport,
    changes,
    runs_through,
    trial_writer,
)
from otel_intercept.middleware.writer import PLAIN_JSON
from otel_intercept.semconv import Phase
from otel_intercept.shield import confess

MAX_BODY: Final = 32_768
"""A body of more bytes is left to aiohttp, which may spare copying it."""

MAX_KINDS: Final = 64
"""Kinds that are known at a time: a reason may be any text."""

Kind: TypeAlias = tuple[str, str, int, str, str, HttpVersion, bool]
"""The one header as it is spelled, and its value; status and reason; method, version,
and whether the connection closes."""

_BODY: Final = b"{}"
_LENGTH: Final = b"\r\nContent-Length: %d\r\n"

# What aiohttp notes of an answer that it has sent.
_OF_RESPONSE: Final = frozenset(
    ("_body_length", "_eof_sent", "_keep_alive", "_must_be_empty_body",
     "_payload_writer", "_req")
)  # fmt: skip
_OF_WRITER: Final = {"_eof": True, "_headers_written": True, "length": len(_BODY)}


class Shape(NamedTuple):
    """How aiohttp sends an answer of one kind.

    Args:
        frame: All bytes; takes the length of the body, and the body.
        headers: What it adds to those of the answer after the length.
        of_response: What it notes on the response, except how many bytes went out.
        fresh: How many attributes a response has that has nothing special to it.
        unwritten: Likewise a writer, with its exchange.
    """

    frame: bytes
    headers: CIMultiDict[str]
    of_response: Mapping[str, object]
    fresh: int
    unwritten: int


class WholeAnswers:
    """Sends answers that are JSON in one piece. Confined to the event loop's thread."""

    __slots__ = ("_aiohttp", "_shapes", "_since", "_until")

    def __init__(self) -> None:
        self._since = self._until = 0
        self._aiohttp = KnownWay()
        self._shapes: dict[Kind, Shape | None] = {}

    def send(
        self,
        exchange: Exchange,
        response: web.Response,
        request: web.Request,
        writer: StreamWriter,
        transport: Transport,
    ) -> bool | None:
        """Send an answer, and report it, if it is of a kind that can be sent so.

        Args:
            exchange: What the answer is of; it has had no other, and no trouble.
            response: The answer.
            request: What it answers.
            writer: What aiohttp would send it with.
            transport: What that writes to.

        Returns:
            True where that is all; False where aiohttp would wait for the agent to read
            before the answer is through; None where nothing was sent nor changed.

        Raises:
            Exception: What the transport raised, which is reported.
        """
        # Private names of aiohttp: its properties cost more than all else here, and a
        # release that has others is not as known.
        try:
            headers, body = response._headers, response._body  # noqa: SLF001
            if (
                len(headers) != 1
                or type(body) is not bytes
                or not 0 < (size := len(body)) <= MAX_BODY
                or transport.is_closing()
                or transport.get_write_buffer_size()
            ):
                return None
            status, reason = response._status, response._reason  # noqa: SLF001
            ((name, value),) = headers.items()
            message = request._message  # noqa: SLF001
            kind = (
                name,
                value,
                status,
                reason,
                message.method,
                message.version,
                message.should_close,
            )
            # What was seen holds for as long as the header that tells the time.
            if not self._since <= time() < self._until:
                self._begin()
            try:
                shape = self._shapes[kind]
            except KeyError:
                shape = self._learn(kind, request)
            if shape is None or type(reason) is not str:
                return None
            # Not before: a look at the dictionary of either makes aiohttp slower.
            own, written = response.__dict__, writer.__dict__
            protocol = writer._protocol  # noqa: SLF001
            if (
                len(own) != shape.fresh
                or len(written) != shape.unwritten
                or written["_on_chunk_sent"] is not None
                or written["_on_headers_sent"] is not None
                or written.get("on_body_write") is not None
                or protocol.transport is not transport
            ):
                return None
            data = shape.frame % (size, body)
            sent = len(data)
        except Exception:  # noqa: BLE001 - aiohttp sends what we cannot
            confess("WholeAnswers.send")
            return None
        exchange.answers_whole(status)
        try:
            transport.write(data)
        except Exception as exc:
            exchange.write_failed(exc, phase=Phase.EOF)
            raise
        headers.add(CONTENT_LENGTH, str(size))
        headers.extend(shape.headers)
        own.update(shape.of_response)
        written["length"] = size
        written["_eof"] = written["_headers_written"] = True
        own["_body_length"] = written["buffer_size"] = written["output_size"] = sent
        # With nothing before it, so little waits only where somebody has set a limit.
        if protocol._paused:  # noqa: SLF001
            return False
        exchange.answer_ended()
        return True

    def _begin(self) -> None:
        self._shapes.clear()
        self._since = floor(time())
        self._until = self._since + 1

    def _learn(self, kind: Kind, request: web.Request) -> Shape | None:
        if len(self._shapes) >= MAX_KINDS:
            return None
        shape = self._shapes[kind] = None
        if (
            type(request) is web.Request
            and kind[1] in PLAIN_JSON
            and self._aiohttp.is_taken()
        ):
            try:
                shape = self._shapes[kind] = _see(kind, request)
            except Exception:  # noqa: BLE001 - such as a reason that cannot be sent
                return None
        return shape


def _see(kind: Kind, request: web.Request) -> Shape | None:
    """Have aiohttp send an answer, and see what it writes and what it notes."""
    name, value, status, reason, method, version, closes = kind
    transport = TrialTransport()
    writer = trial_writer(transport)
    asked = web.Request(
        RawRequestMessage(
            method,
            "/",
            version,
            CIMultiDictProxy(CIMultiDict()),
            (),
            closes,
            compression=None,
            upgrade=False,
            chunked=False,
            url=URL("/"),
        ),
        EMPTY_PAYLOAD,
        request.protocol,
        writer,
        request.task,
        asyncio.get_running_loop(),
    )
    response = web.Response(
        body=_BODY,
        status=status,
        reason=reason,
        headers={name: value},
    )
    fresh, unwritten = {**vars(response)}, {**vars(writer)}
    if not (
        runs_through(response.prepare(asked))
        and runs_through(response.write_eof())
        and len(transport.written) == 1
    ):
        return None
    data = b"".join(transport.written[0])
    sent = len(data)
    added = [*response.headers.items()][1:]
    of_response = changes(fresh, vars(response))
    of_writer = changes(unwritten, vars(writer))
    head, found, tail = data.removesuffix(_BODY).partition(_LENGTH % len(_BODY))
    as_known = (
        found
        and writer._protocol._paused is False  # noqa: SLF001
        and tail.endswith(b"\r\n\r\n")
        and data == head + found + tail + _BODY
        and added[0] == (CONTENT_LENGTH, str(len(_BODY)))
        and of_response.keys() == _OF_RESPONSE
        and of_response.pop("_body_length") == sent
        and all(each is None or type(each) is bool for each in of_response.values())
        and of_writer == {**_OF_WRITER, "buffer_size": sent, "output_size": sent}
    )
    if not as_known:
        return None
    return Shape(
        frame=_literal(head) + _LENGTH + _literal(tail) + b"%b",
        headers=CIMultiDict(added[1:]),
        of_response=of_response,
        fresh=len(fresh),
        unwritten=len(unwritten) + 1,
    )


def _literal(part: bytes) -> bytes:
    return part.replace(b"%", b"%%")
