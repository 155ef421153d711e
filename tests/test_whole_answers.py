"""What is sent in one step is what aiohttp sends, to the byte and the attribute."""

import asyncio
import functools
import gc
import importlib
import logging
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from types import FunctionType
from typing import Final

import pytest
import trustme
import wrapt
from aiohttp import http_writer, web, web_response
from aiohttp.abc import AbstractAccessLogger, AbstractStreamWriter
from aiohttp.http import StreamWriter
from aiohttp.web_log import AccessLogger
from multidict import CIMultiDict

from otel_intercept import RolloutRegistry, instrument_app
from otel_intercept.middleware.known import KnownWay
from otel_intercept.middleware.trial import uses_only
from otel_intercept.middleware.whole import MAX_BODY, MAX_KINDS, WholeAnswers
from tests.conftest import Serve, logged
from tests.one_step import OneSteps
from tests.served import settle

ROUTE: Final = "/rollout/{rollout_id}/v1/chat/completions"
CHAT: Final = "/rollout/r1/v1/chat/completions"
ASKS: Final = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
LAST: Final = ASKS.replace(b"Host: x", b"Host: x\r\nConnection: close")
DATE: Final = re.compile(rb"Date: ([^\r]+)")
LOG_FORMAT: Final = "%s %b %{Content-Length}o %{Content-Type}o %{Server}o"

Answer = Callable[[int], web.Response]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]


def brief(number: int) -> web.Response:
    """Answer with a length that tells the number of the answer."""
    return web.json_response(text='{"a": "' + "x" * (number % 40) + '"}')


def long(number: int) -> web.Response:
    """Answer with as much as goes in one step."""
    return web.json_response(body=b"%8d" % number + b"x" * (MAX_BODY - 8))


def of_every_kind(number: int) -> web.Response:
    """Answer with one of many kinds, some of which go in one step."""
    status = (200, 201, 204, 304, 404, 429, 500, 503)[number % 8]
    reason = (None, "100 %", "%d", "", "É")[number % 5]
    kind = ("application/json", "text/plain")[number % 3 == 0]
    return web.Response(text="{}", status=status, reason=reason, content_type=kind)


def with_reasons(number: int) -> web.Response:
    """Answer with a reason of its own."""
    return web.json_response({}, reason=f"Because {number}")


async def read_one(reader: asyncio.StreamReader) -> bytes:
    """Read one answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    return head + await reader.readexactly(int(length[1]) if length else 0)


def dates(data: bytes) -> list[int]:
    """Give all dates of answers in seconds since the epoch."""
    return [
        int(parsedate_to_datetime(found.decode()).timestamp())
        for found in DATE.findall(data)
    ]


async def one_after_the_other(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bytes:
    """Send each request when the answer before has come; the dates are right."""
    data = b""
    for _ in range(40):
        before = int(time.time())
        writer.write(ASKS)
        answer = await read_one(reader)
        assert all(before <= date <= time.time() for date in dates(answer))
        data += answer
    return data


async def over_seconds(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bytes:
    """Send requests over some seconds; each date is the one of its answer."""
    data = b""
    for _ in range(9):
        before = int(time.time())
        writer.write(ASKS)
        answer = await read_one(reader)
        assert all(before <= date <= time.time() for date in dates(answer))
        data += answer
        await asyncio.sleep(0.27)
    assert len(set(dates(data))) > 2
    return data


async def all_at_once(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bytes:
    """Send all requests before the first answer has come."""
    writer.write(ASKS * 40 + LAST)
    return await reader.read()


@dataclass
class Note:
    """What aiohttp's access log could tell of an answer."""

    one_step: bool = field(compare=False)
    line: str
    prepared: bool
    body_length: int
    keep_alive: bool | None
    headers: list[tuple[str, str, type]]
    response: dict[str, object]
    writer: dict[str, object]
    shown: str


@dataclass
class Site:
    """An app that may be observed, and what is noted of its answers."""

    answer: Answer
    registry: RolloutRegistry | None
    notes: list[Note] = field(default_factory=list)
    steps: OneSteps = field(default_factory=OneSteps)
    sent_before: int = 0
    buffered: list[int] = field(default_factory=list)
    asked: int = 0
    port: int = 0

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request."""
        assert request.transport is not None
        self.sent_before = self.steps.sent
        self.buffered.append(request.transport.get_write_buffer_size())
        self.asked += 1
        return self.answer(self.asked)

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["Site"]:
        """Serve for the length of a block."""
        app = web.Application()
        app.router.add_post(ROUTE, self.handle)
        if self.registry is not None:
            instrument_app(app, self.registry)
        logger = logging.getLogger("tests.access")
        logger.setLevel(logging.INFO)
        logging.getLogger("tests").setLevel(logging.INFO)
        lines = Lines()
        logger.addHandler(lines)
        site = self

        class Noting(AbstractAccessLogger):
            """Notes an answer when aiohttp is through with it, and its whole line."""

            def log(
                self, request: web.BaseRequest, response: web.StreamResponse, _: float
            ) -> None:
                AccessLogger(logger, LOG_FORMAT).log(request, response, 0)
                site.note(request, response, lines.last)

        runner = web.AppRunner(
            app,
            shutdown_timeout=1,
            access_log=logging.getLogger("tests"),
            access_log_class=Noting,
            access_log_format=LOG_FORMAT,
        )
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        self.port = runner.addresses[0][1]
        try:
            with self.steps:
                yield self
        finally:
            await runner.cleanup()
            logger.removeHandler(lines)

    def note(
        self, request: web.BaseRequest, response: web.StreamResponse, line: str
    ) -> None:
        """Note an answer."""
        writer = vars(request.writer)
        own = {**vars(response)}
        headers = own.pop("_headers")
        own.pop("_body")
        self.notes.append(
            Note(
                one_step=self.steps.sent > self.sent_before,
                line=line,
                prepared=response.prepared,
                body_length=response.body_length,
                keep_alive=response.keep_alive,
                headers=[
                    (name, "" if name == "Date" else value, type(name))
                    for name, value in headers.items()
                ],
                response=own,
                writer={
                    name: value
                    for name, value in writer.items()
                    if name not in {"exchange", "unseen", "_protocol", "loop"}
                },
                shown=repr(response),
            )
        )


async def without_reading(
    site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bytes:
    """Ask for more than any buffer on the way takes, and read when that holds it up."""
    writer.write(ASKS * 500 + LAST)
    asked = -1
    while asked != site.asked:
        asked = site.asked
        await settle()
    return await reader.read()


class Lines(logging.Handler):
    """Keeps the last line."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.last = record.getMessage()


async def talk(
    site: Site, talk: Talk, authority: trustme.CA | None = None
) -> tuple[bytes, list[Note]]:
    """Give all that an agent gets of a site, and what is noted there."""
    tls = client = None
    if authority is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        client = ssl.create_default_context()
        authority.configure_trust(client)
    async with site.running(tls):
        began = int(time.time())
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", site.port, ssl=client, limit=1 << 20
        )
        data = await asyncio.wait_for(talk(reader, writer), 30)
        writer.close()
        # The end of TLS takes some turns, and may come to nobody any more.
        with suppress(OSError):
            await writer.wait_closed()
        assert all(began <= date <= time.time() for date in dates(data))
    return DATE.sub(b"Date: ", data), site.notes


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """Make an event loop of a kind."""
    if kind == "asyncio":
        return asyncio.new_event_loop()
    loop: object = importlib.import_module(kind).new_event_loop()
    assert isinstance(loop, asyncio.AbstractEventLoop)
    return loop


LOOPS: Final = ["asyncio", "uvloop"]
TALKS: Final[dict[str, tuple[Talk, Answer]]] = {
    "one after the other": (one_after_the_other, brief),
    "of every kind": (one_after_the_other, of_every_kind),
    "all at once": (all_at_once, brief),
    "long ones at once": (all_at_once, long),
    "reasons": (one_after_the_other, with_reasons),
}


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("name", TALKS)
def test_an_agent_gets_what_it_gets_unobserved(
    registry: RolloutRegistry, name: str, kind: str, tls: bool
) -> None:
    """Every byte, and all that aiohttp knows of its answers after, is the same."""
    script, answer = TALKS[name]
    authority = trustme.CA() if tls else None
    registry.open("r1")
    with asyncio.Runner(loop_factory=lambda: new_loop(kind)) as runner:
        expected = runner.run(talk(Site(answer, None), script, authority))
        got = runner.run(talk(Site(answer, registry), script, authority))

    assert got[0] == expected[0]
    assert got[1] == expected[1]
    assert len(got[1]) >= 40
    assert any(note.one_step for note in got[1])


@pytest.mark.parametrize("kind", LOOPS)
def test_the_date_moves_on(registry: RolloutRegistry, kind: str) -> None:
    """An answer in one step has the date of its own second."""
    site = Site(brief, registry)
    registry.open("r1")
    with asyncio.Runner(loop_factory=lambda: new_loop(kind)) as runner:
        runner.run(talk(site, over_seconds))

    assert [note.one_step for note in site.notes] == [True] * 9


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("kind", LOOPS)
def test_an_agent_that_does_not_read_is_left_to_aiohttp(
    registry: RolloutRegistry, kind: str, tls: bool
) -> None:
    """Nothing is written in one step to a connection where something still waits."""
    authority = trustme.CA() if tls else None
    plain, observed = Site(long, None), Site(long, registry)
    registry.open("r1")
    with asyncio.Runner(loop_factory=lambda: new_loop(kind)) as runner:
        expected = runner.run(
            talk(plain, functools.partial(without_reading, plain), authority)
        )
        got = runner.run(
            talk(observed, functools.partial(without_reading, observed), authority)
        )

    assert got == expected
    steps = [note.one_step for note in observed.notes]
    waits = [bool(size) for size in observed.buffered]
    assert any(steps)
    assert any(waits)
    assert not any(step and wait for step, wait in zip(steps, waits, strict=True))


async def test_what_is_learned_is_little_and_holds_nothing(
    registry: RolloutRegistry,
) -> None:
    """No more kinds than so many are kept, and of them neither request nor task."""
    known = {id(one) for one in gc.get_objects() if type(one) is WholeAnswers}
    registry.open("r1")
    site = Site(with_reasons, registry)
    async with site.running():
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(ASKS * (MAX_KINDS * 3) + LAST)
        await reader.read()
        writer.close()
        (answers,) = (
            one
            for one in gc.get_objects()
            if type(one) is WholeAnswers and id(one) not in known
        )
        shapes = answers._shapes  # noqa: SLF001 - what is kept

        assert 0 < len(shapes) <= MAX_KINDS
        assert sum(note.one_step for note in site.notes) >= MAX_KINDS
        assert all(note.line for note in site.notes)
        assert kinds_within(shapes) <= {
            "dict", "tuple", "Shape", "str", "int", "bool", "bytes", "NoneType",
            "HttpVersion", "istr", "CIMultiDict",
        }  # fmt: skip


def kinds_within(value: object) -> set[str]:
    """Name the types of all that a value holds."""
    kinds, seen, left = set(), set(), [value]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type):
            continue
        seen.add(id(one))
        kinds.add(type(one).__name__)
        # Else the way leads to the module, and from there anywhere.
        held = one.items() if isinstance(one, CIMultiDict) else gc.get_referents(one)
        left.extend(held)
    return kinds


Patch = Callable[[list[object]], AbstractContextManager[None]]


@contextmanager
def put(owner: object, name: str, value: object) -> Iterator[None]:
    """Do to aiohttp what other libraries do, for the length of a block."""
    own: object = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, own)


def wrapped(owner: object, name: str) -> Patch:
    """Put a wrapper around a function that names only what aiohttp names."""

    def patch(append: list[object]) -> AbstractContextManager[None]:
        write: object = vars(owner)[name]
        assert callable(write)

        @functools.wraps(write)
        def status(*body: object, **hdrs: object) -> object:
            append.append(body)
            return write(*body, **hdrs)

        return put(owner, name, status)

    return patch


def carried(owner: object, name: str) -> Patch:
    """Put a function there that holds in its defaults what it calls."""

    def patch(append: list[object]) -> AbstractContextManager[None]:
        own: object = vars(owner)[name]

        def status(
            *body: object, write: object = own, size: list[object] = append
        ) -> object:
            size.append(body)
            assert callable(write)
            return write(*body)

        return put(owner, name, status)

    return patch


def proxied(owner: object, name: str) -> Patch:
    """Put an object there that looks like the function."""

    def patch(append: list[object]) -> AbstractContextManager[None]:
        def around(
            call: Callable[..., object],
            _self: object,
            args: tuple[object, ...],
            options: dict[str, object],
        ) -> object:
            append.append(args)
            return call(*args, **options)

        return put(owner, name, wrapt.FunctionWrapper(vars(owner)[name], around))

    return patch


PATCHES: Final = {
    "wrapped prepare": wrapped(web.StreamResponse, "prepare"),
    "wrapped start": wrapped(web.Response, "_start"),
    "wrapped hook": wrapped(web.Request, "_prepare_hook"),
    "wrapped headers": wrapped(StreamWriter, "write_headers"),
    "wrapped lines": wrapped(StreamWriter, "_writelines"),
    "wrapped drain": wrapped(StreamWriter, "drain"),
    "wrapped serializer": wrapped(http_writer, "_serialize_headers"),
    "wrapped clock": wrapped(web_response, "rfc822_formatted_time"),
    "carried end": carried(web.Response, "write_eof"),
    "carried end of the writer": carried(StreamWriter, "write_eof"),
    "proxied prepare": proxied(web.StreamResponse, "prepare"),
    "proxied end": proxied(StreamWriter, "write_eof"),
    "proxied headers": proxied(web.StreamResponse, "_prepare_headers"),
}


# aiohttp calls these once more, when it finds that an answer is through.
EACH: Final = {"wrapped prepare": 2, "proxied prepare": 2, "carried end": 2}


async def next_second() -> None:
    """Wait until the second is over."""
    await asyncio.sleep(1.02 - time.time() % 1)


@pytest.mark.parametrize("name", PATCHES)
async def test_what_others_put_into_aiohttp_runs_within_a_second(
    registry: RolloutRegistry, name: str
) -> None:
    """It runs for each answer as without us, and is forgotten when it is gone."""
    calls: list[object] = []
    site = Site(brief, registry)
    registry.open("r1")
    async with site.running():
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)

        async def ask() -> None:
            writer.write(ASKS)
            await read_one(reader)

        await ask()
        with PATCHES[name](calls):
            await next_second()
            for _ in range(3):
                await ask()
            assert len(calls) == 3 * EACH.get(name, 1)
        await next_second()
        await ask()
        writer.close()

    assert len(calls) == 3 * EACH.get(name, 1)
    assert [note.one_step for note in site.notes] == [True, *[False] * 3, True]


@pytest.mark.parametrize("owner", [web.BaseRequest, web.Response])
async def test_who_counts_requests_or_responses_counts_none_of_ours(
    registry: RolloutRegistry, owner: type
) -> None:
    """Nothing is tried where somebody would hear of it."""
    calls: list[object] = []
    site = Site(brief, registry)
    registry.open("r1")
    async with site.running():
        with wrapped(owner, "__init__")(calls):
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            for _ in range(3):
                writer.write(ASKS)
                await read_one(reader)
            writer.close()

    assert len(calls) == 3


async def test_what_others_change_in_aiohttp_is_seen_within_a_second(
    registry: RolloutRegistry,
) -> None:
    """A value is learned as it is, and the answer still goes in one step."""
    site = Site(brief, registry)
    registry.open("r1")
    async with site.running():
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        answers = []
        for software in ("one/1", "two/2"):
            with put(web_response, "SERVER_SOFTWARE", software):
                await next_second()
                writer.write(ASKS)
                answers.append(await read_one(reader))
        writer.close()

    assert b"Server: one/1\r\n" in answers[0]
    assert b"Server: two/2\r\n" in answers[1]
    assert [note.one_step for note in site.notes] == [True, True]


class Marking(web.Request):
    """A request that has a say in its answer."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers["X-Mark"] = "1"


async def test_a_request_of_another_class_has_its_say(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """What its class does to an answer is done."""
    app = web.Application()
    app.router.add_post(ROUTE, Site(brief, None).handle)
    instrument_app(app, registry)
    # Each app has the function that makes its requests.
    make: object = getattr(app, "_make_request")  # noqa: B009 - aiohttp's own
    assert callable(make)
    vars(app)["_make_request"] = functools.partial(make, _cls=Marking)
    registry.open("r1")
    reader, writer = await connect(await serve(app))
    writer.write(ASKS + LAST)
    data = await reader.read()
    writer.close()

    assert data.count(b"X-Mark: 1") == data.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("signs_up", ["parent", "child"])
@pytest.mark.parametrize("instrumented", ["parent", "child"])
async def test_a_signal_of_any_app_on_the_way_is_sent_at_once(
    serve: Serve, registry: RolloutRegistry, signs_up: str, instrumented: str
) -> None:
    """Who signs up for each answer is asked about each."""

    async def mark(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Mark"] = "1"

    apps = {"parent": web.Application(), "child": web.Application()}
    route = "/{rollout_id}/v1/chat/completions"
    apps["child"].router.add_post(route, Site(brief, None).handle)
    apps[signs_up].on_response_prepare.append(mark)
    instrument_app(apps[instrumented], registry)
    apps["parent"].add_subapp("/rollout", apps["child"])
    registry.open("r1")

    reader, writer = await connect(await serve(apps["parent"]))
    writer.write(ASKS + LAST)
    data = await reader.read()
    writer.close()

    assert data.count(b"X-Mark: 1") == data.count(b"HTTP/1.1 200 OK") == 2


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a site."""
    host, port = url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


class Between(asyncio.Transport):
    """Stands between a protocol and its transport, as those do who count bytes."""

    def __init__(self, below: asyncio.Transport) -> None:
        super().__init__()
        self._below = below
        self.written: list[bytes] = []
        self.raises: type[Exception] | None = None

    def __getattribute__(self, name: str) -> object:
        """Give what is not its own from below."""
        own = {"write", "writelines", "written", "raises", "_below", "__class__"}
        if name in own:
            return super().__getattribute__(name)
        value: object = getattr(super().__getattribute__("_below"), name)
        return value

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write, or raise."""
        if self.raises is not None:
            raise self.raises
        self.written.append(bytes(data))
        self._below.write(data)


async def test_a_transport_that_takes_the_place_of_another_is_written_to(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """Also where it does so while the handler runs."""
    between: list[Between] = []

    async def handle(request: web.Request) -> web.Response:
        if not between:
            assert request.transport is not None
            between.append(Between(request.transport))
            request.protocol.transport = between[0]
        return web.json_response({})

    app = web.Application()
    app.router.add_post(ROUTE, handle)
    instrument_app(app, registry)
    registry.open("r1")
    reader, writer = await connect(await serve(app))
    writer.write(ASKS + LAST)
    data = await reader.read()
    writer.close()

    assert len(between[0].written) == 2
    assert b"".join(between[0].written) == data


@pytest.mark.parametrize("raises", [RuntimeError, ConnectionResetError, OSError])
@pytest.mark.parametrize("kind", [web.Response, type("Left", (web.Response,), {})])
async def test_a_transport_that_raises_is_reported_and_breaks_nothing(
    serve: Serve,
    registry: RolloutRegistry,
    caplog: pytest.LogCaptureFixture,
    kind: type[web.Response],
    raises: type[Exception],
) -> None:
    """The exchange is cut, the connection closed, and no traceback is logged."""
    between: list[Between] = []

    async def handle(request: web.Request) -> web.Response:
        if not between:
            assert request.transport is not None
            between.append(Between(request.transport))
            request.protocol.transport = between[0]
        else:
            between[0].raises = raises
        return kind(text="{}", content_type="application/json")

    app = web.Application()
    app.router.add_post(ROUTE, handle)
    instrument_app(app, registry)
    rollout = registry.open("r1")
    reader, writer = await connect(await serve(app))
    writer.write(ASKS)
    await read_one(reader)
    writer.write(ASKS)
    rest = await reader.read()
    writer.close()

    assert rest == b""
    assert rollout.error is not None
    assert rollout.error.failure.phase == "eof"
    assert "Traceback" not in logged(caplog)
    assert "please report it" not in logged(caplog)


@pytest.mark.parametrize("name", ["_on_chunk_sent", "_on_headers_sent"])
async def test_who_asked_to_be_told_of_an_answer_is_told(
    serve: Serve, registry: RolloutRegistry, name: str
) -> None:
    """What a writer has to call before it writes is called, once for each answer."""
    told: list[object] = []

    async def tell(what: object) -> None:
        told.append(what)

    async def handle(request: web.Request) -> web.Response:
        setattr(request.writer, name, tell)
        return web.json_response({})

    assert len(await answers(serve, registry, handle)) == len(told) == 2


@pytest.mark.skipif(
    not hasattr(StreamWriter, "on_body_write"), reason="not before aiohttp 3.14.4"
)
async def test_who_asked_how_much_was_written_is_told(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """The hook for accepted bytes is called as aiohttp calls it."""
    told: list[tuple[int, int]] = []

    async def handle(request: web.Request) -> web.Response:
        request.writer.on_body_write = lambda size, total: told.append((size, total))
        return web.json_response({})

    sizes = [len(answer) for answer in await answers(serve, registry, handle)]

    assert told == [(2, size) for size in sizes]


async def test_what_stands_on_a_writer_itself_runs(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """Also where others change one writer, and not its class."""
    written: list[bytes] = []

    async def handle(request: web.Request) -> web.Response:
        own: object = getattr(request.writer, "_writelines")  # noqa: B009 - aiohttp's

        def counted(parts: tuple[bytes, ...]) -> None:
            written.append(b"".join(parts))
            assert callable(own)
            own(parts)

        setattr(request.writer, "_writelines", counted)  # noqa: B010 - as above
        return web.json_response({})

    assert await answers(serve, registry, handle) == written


async def answers(
    serve: Serve,
    registry: RolloutRegistry,
    handle: Callable[[web.Request], Awaitable[web.Response]],
) -> list[bytes]:
    """Give what a handler answers to two requests of one connection."""
    app = web.Application()
    app.router.add_post(ROUTE, handle)
    instrument_app(app, registry)
    registry.open("r1")
    reader, writer = await connect(await serve(app))
    writer.write(ASKS + LAST)
    data = [await read_one(reader), await read_one(reader)]
    writer.close()
    return data


async def test_a_writer_of_an_older_aiohttp_does_as_well(
    serve: Serve,
    registry: RolloutRegistry,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before 3.14.4 no writer told what was written: it has no such attribute."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.headers.get("X-Stream") is None:
            return web.json_response({})
        vars(request.writer).pop("on_body_write", None)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for _ in range(4):
            await answer.write(b"data: {}\n\n")
        await answer.write_eof()
        return answer

    app = web.Application()
    app.router.add_post(ROUTE, handle)
    instrument_app(app, registry)
    registry.open("r1")
    monkeypatch.delattr(AbstractStreamWriter, "on_body_write", raising=False)
    reader, writer = await connect(await serve(app))
    writer.write(ASKS + LAST.replace(b"Host", b"X-Stream: 1\r\nHost"))
    data = await reader.read()
    writer.close()

    assert data.count(b"HTTP/1.1 200 OK") == 2
    assert data.count(b"data: {}") == 4
    assert data.endswith(b"0\r\n\r\n")
    assert "please report it" not in logged(caplog)


def of_this_module(self: StreamWriter) -> bool:
    """Name only what aiohttp names, outside of aiohttp."""
    return self.chunked


async def through(
    call: Callable[[StreamWriter], Awaitable[None]],
    _self: object,
    args: tuple[StreamWriter],
    _options: dict[str, object],
) -> None:
    """Call what is wrapped."""
    await call(*args)


NAMES: Final = frozenset(StreamWriter.drain.__code__.co_names)
DRAIN: Final = StreamWriter.drain.__code__
LOOKALIKES: Final[dict[str, object]] = {
    "a function of another module": of_this_module,
    "one that says it is aiohttp's": functools.wraps(StreamWriter.drain)(
        of_this_module
    ),
    "a part of one": functools.partial(StreamWriter.drain),
    "a proxy": wrapt.ObjectProxy(StreamWriter.drain),
    "a wrapper": wrapt.FunctionWrapper(StreamWriter.drain, through),
    "a method": Site(brief, None).handle,
    "a class": StreamWriter,
    "a function of C": len,
    "nothing": None,
    "one that holds a function": FunctionType(
        DRAIN.replace(co_consts=(*DRAIN.co_consts, print)), vars(http_writer)
    ),
    "one that names more": FunctionType(
        DRAIN.replace(co_names=(*DRAIN.co_names, "more")), vars(http_writer)
    ),
    "one with something around it": FunctionType(
        DRAIN.replace(co_freevars=("call",)),
        vars(http_writer),
        closure=(lambda cell: lambda: cell)(1).__closure__,
    ),
    "one of a module with such a name": FunctionType(
        DRAIN, {"__name__": "aiohttp_more"}
    ),
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_only_looks_like_aiohttps_own_is_not_known(name: str) -> None:
    """A function is known by its module and its code, not by what it says of itself."""
    assert not uses_only(LOOKALIKES[name], NAMES | {"chunked"})


def test_aiohttps_own_is_known() -> None:
    """The installed release answers as it is known to do."""
    assert uses_only(StreamWriter.drain, NAMES)
    assert not uses_only(StreamWriter.drain, frozenset())
    assert KnownWay().is_taken()
