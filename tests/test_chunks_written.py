"""The chunks of a handler's own event stream: told as they went, and not changed."""

import asyncio
import contextlib
import re
from array import array
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from types import FunctionType

import pytest
from aiohttp import ClientConnectionResetError, http_writer, web
from aiohttp.http import StreamWriter

from otel_intercept import Exchange, Phase, RolloutRegistry
from otel_intercept.current import current_exchange
from otel_intercept.middleware.serving import Serving, serve_unchanged
from otel_intercept.middleware.writer import ObservedWriter, StreamingWriter
from otel_intercept.semconv import Dialect
from otel_intercept.sse import SseScanner
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import Serve
from tests.served import failure_of, outcomes, settle, until

EVENT_STREAM = {"Content-Type": "text/event-stream"}
DONE = b"data: [DONE]\n\n"
FRAME = b'data: {"error": {"type": "overloaded_error"}}\n\n'
KEEPALIVE = b": keepalive\n\n"
HTTP_1_1, HTTP_1_0 = "1.1", "1.0"

Script = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


def chunk(text: str = "word") -> bytes:
    """Make a chat chunk."""
    return f'data: {{"choices": [{{"delta": {{"content": "{text}"}}}}]}}\n\n'.encode()


@dataclass(slots=True)
class Scene:
    """A handler that writes what a test wants, and what it saw."""

    script: Script
    headers: dict[str, str] = field(default_factory=lambda: dict(EVENT_STREAM))
    exchange: Exchange | None = None
    task: "asyncio.Task[object] | None" = None
    raised: BaseException | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Write the script's event stream."""
        self.exchange = current_exchange()
        self.task = asyncio.current_task()
        response = web.StreamResponse(headers=self.headers)
        await response.prepare(request)
        try:
            await self.script(request, response)
        except BaseException as exc:
            self.raised = exc
            raise
        return response

    def app(self, registry: RolloutRegistry | None) -> web.Application:
        """Make an app of it, observed or not."""
        app, serving = web.Application(), Serving()

        async def serve(request: web.Request) -> web.StreamResponse:
            rollout = registry.get("r1") if registry is not None else None
            if rollout is None:
                return await self.handle(request)
            return await serve_unchanged(serving, request, self.handle, rollout)

        app.router.add_post("/v1/chat/completions", serve)
        return app

    def meter_says(self) -> tuple[object, ...]:
        """Give all that the exchange has counted of its stream."""
        assert self.exchange is not None
        meter = self.exchange.stream
        assert meter is not None
        facts = meter.facts()
        return (
            *(facts.chunks, facts.bytes, facts.keepalives),
            *(meter.terminal, meter.error, meter.response),
        )


def scan_says(written: list[bytes]) -> tuple[object, ...]:
    """Give what a scan of every byte says of the same stream."""
    scanner = SseScanner(Dialect.CHAT_COMPLETIONS)
    body = b"".join(written)
    for index in range(len(body)):
        scanner.feed(body[index : index + 1])
    return (
        *(scanner.chunks, len(body), scanner.keepalives),
        *(scanner.terminal, scanner.error, scanner.response),
    )


def writes(*pieces: bytes | bytearray | memoryview) -> Script:
    """Make a script that writes these, one after the other."""

    async def script(_request: web.Request, response: web.StreamResponse) -> None:
        for piece in pieces:
            await response.write(piece)

    return script


async def connect(
    url: str, version: str = HTTP_1_1
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send one request over a socket of one's own, whose buffers are small."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(
        f"POST /v1/chat/completions HTTP/{version}\r\nHost: x\r\n"
        "Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
    )
    return reader, writer


async def ask(url: str, version: str = HTTP_1_1) -> bytes:
    """Return every byte of an answer, but for its date."""
    reader, writer = await connect(url, version)
    answer = await reader.read()
    writer.close()
    return re.sub(rb"Date: [^\r]*", b"", answer)


TOKENS = [chunk("one"), chunk("two"), chunk("a longer text, of several words" * 4)]
STREAMS: dict[str, list[bytes | bytearray | memoryview]] = {
    "tokens": [*TOKENS, *TOKENS, DONE],
    "keepalives": [KEEPALIVE, *TOKENS, KEEPALIVE, *TOKENS, DONE],
    "an error frame": [*TOKENS, FRAME, chunk(), DONE],
    "an error in a text": [*TOKENS, chunk('"}}], "error": {"code": 500, "m": "'), DONE],
    "a cut event": [*TOKENS, chunk()[:20], chunk()[20:], chunk() + chunk(), DONE],
    "nothing": [chunk(), b"", chunk(), b"", DONE],
    "bytearrays": [chunk(), chunk(), bytearray(chunk()), chunk(), DONE],
    "views": [chunk(), chunk(), memoryview(chunk()), chunk(), DONE],
    "wide views": [chunk(), memoryview(array("H", b'data: {"a": 1}\n\n')), DONE],
    "a large chunk": [chunk(), chunk("x" * 200_000), chunk(), DONE],
    "chunks about as large as are joined": [
        chunk(),
        *(chunk("x" * (size - len(chunk("")))) for size in range(1_998, 2_002)),
    ],
    "no end": [chunk(), chunk()],
}


@pytest.mark.parametrize("version", [HTTP_1_1, HTTP_1_0])
@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_is_told_as_it_went_and_not_changed(
    serve: Serve, registry: RolloutRegistry, name: str, version: str
) -> None:
    """The agent gets what it gets without us; a scan of every byte says the same."""
    pieces = STREAMS[name]
    plain, observed = Scene(writes(*pieces)), Scene(writes(*pieces))
    registry.open("r1")

    expected = await ask(await serve(plain.app(None)), version)
    got = await ask(await serve(observed.app(registry)), version)

    assert got == expected
    assert observed.meter_says() == scan_says([bytes(piece) for piece in pieces])


async def test_only_chunks_of_an_event_stream_go_the_short_way(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """The installed aiohttp's `write` is known; other bodies are left to it."""
    kinds: list[type] = []

    async def script(request: web.Request, response: web.StreamResponse) -> None:
        for _ in range(3):
            await response.write(chunk())
            kinds.append(type(request.writer))

    async def compressed(request: web.Request, response: web.StreamResponse) -> None:
        await response.write(chunk())
        request.writer.enable_compression("gzip")
        await response.write(chunk())
        kinds.append(type(request.writer))

    registry.open("r1")
    for scene, version in (
        (Scene(script), HTTP_1_1),
        (Scene(script), HTTP_1_0),
        (Scene(script, {"Content-Type": "text/plain"}), HTTP_1_1),
        (Scene(compressed), HTTP_1_1),
    ):
        await ask(await serve(scene.app(registry)), version)

    assert kinds == [StreamingWriter] * 3 + [ObservedWriter] * 7


async def test_a_body_that_is_compressed_on_its_way_stays_as_it_is(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """Compression that begins within a stream is aiohttp's, as are its bytes."""

    async def script(request: web.Request, response: web.StreamResponse) -> None:
        await writes(chunk(), chunk())(request, response)
        request.writer.enable_compression("deflate")
        await writes(chunk(), DONE)(request, response)

    plain, observed = Scene(script), Scene(script)
    registry.open("r1")

    expected = await ask(await serve(plain.app(None)))

    assert await ask(await serve(observed.app(registry))) == expected
    assert observed.meter_says() == scan_says([chunk(), chunk(), chunk(), DONE])


async def test_a_buffer_that_is_used_again_counts_as_it_was_written(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """What a handler does to a bytearray after its write changes nothing."""
    buffer = bytearray(chunk())

    async def script(_request: web.Request, response: web.StreamResponse) -> None:
        for _ in range(3):
            await response.write(buffer)
            buffer[:] = b"\n" * len(buffer)
            buffer[:] = chunk()
        await response.write(DONE)
        buffer[:] = FRAME + b"\n" * (len(buffer) - len(FRAME))

    scene = Scene(script)
    registry.open("r1")
    await ask(await serve(scene.app(registry)))

    assert scene.meter_says() == scan_says([chunk()] * 3 + [DONE])


async def test_an_error_frame_is_on_the_state_when_its_write_returns(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """Nobody has to ask for it, nor wait for the next chunk."""
    state: dict[str, object] = {}
    seen: list[bool] = []

    async def script(_request: web.Request, response: web.StreamResponse) -> None:
        for piece in (chunk(), chunk(), chunk(), FRAME, chunk()):
            await response.write(piece)
            seen.append("error" in state)

    registry.open("r1", state=state)
    await ask(await serve(Scene(script).app(registry)))

    assert seen == [False, False, False, True, True]


@contextlib.contextmanager
def put_around(name: str, function: object) -> Iterator[None]:
    """Do to aiohttp what other libraries do, for the length of a block."""
    own = vars(StreamWriter)[name]
    setattr(StreamWriter, name, function)
    try:
        yield
    finally:
        setattr(StreamWriter, name, own)


async def test_what_others_put_around_a_write_still_runs(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """A `write` that is not aiohttp's own is called for each chunk."""
    sizes: list[int] = []
    write = StreamWriter.write

    async def counted(self: StreamWriter, chunk: bytes, **options: bool) -> None:
        sizes.append(len(chunk))
        await write(self, chunk)

    scene = Scene(writes(*TOKENS, DONE))
    registry.open("r1")
    with put_around("write", counted):
        await ask(await serve(scene.app(registry)))

    assert sizes == [len(piece) for piece in (*TOKENS, DONE)]
    assert scene.meter_says() == scan_says([*TOKENS, DONE])


@pytest.mark.parametrize("name", ["_write_chunked_payload", "_writelines"])
async def test_what_others_put_around_the_framing_still_runs(
    serve: Serve, registry: RolloutRegistry, name: str
) -> None:
    """A chunk is framed in one step only where aiohttp's own steps stand unchanged."""
    framed: list[object] = []
    own: object = vars(StreamWriter)[name]
    assert callable(own)

    def counted(self: StreamWriter, part: object) -> None:
        framed.append(part)
        own(self, part)

    scene = Scene(writes(*TOKENS, DONE))
    registry.open("r1")
    expected = await ask(await serve(Scene(writes(*TOKENS, DONE)).app(None)))
    with put_around(name, counted):
        got = await ask(await serve(scene.app(registry)))

    assert len(framed) >= len(TOKENS)
    assert got == expected
    assert scene.meter_says() == scan_says([*TOKENS, DONE])


async def test_what_stands_on_the_writer_itself_still_runs(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """Also where others change one writer, and not its class."""
    framed: list[bytes] = []

    async def script(request: web.Request, response: web.StreamResponse) -> None:
        writer = request.writer
        own: object = getattr(writer, "_writelines")  # noqa: B009 - aiohttp's own

        def counted(parts: tuple[bytes, ...]) -> None:
            framed.append(b"".join(parts))
            assert callable(own)
            own(parts)

        setattr(writer, "_writelines", counted)  # noqa: B010 - as above
        await writes(*TOKENS)(request, response)

    registry.open("r1")
    await ask(await serve(Scene(script).app(registry)))

    assert len(framed) == len(TOKENS)


async def test_who_asked_for_each_chunk_before_it_is_sent_gets_it(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """The signal that aiohttp sends for each chunk is sent for each."""
    told: list[bytes] = []

    async def script(request: web.Request, response: web.StreamResponse) -> None:
        setattr(request.writer, "_on_chunk_sent", tell)  # noqa: B010 - aiohttp's own
        await writes(*TOKENS)(request, response)

    async def tell(chunk: bytes) -> None:
        told.append(chunk)

    registry.open("r1")
    await ask(await serve(Scene(script).app(registry)))

    assert told == TOKENS


async def test_a_writer_counts_what_it_counts_unobserved(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """Its own counters, which access logs show, grow as they do without us."""
    counts: list[tuple[int, int]] = []

    async def script(request: web.Request, response: web.StreamResponse) -> None:
        for piece in (*TOKENS, *TOKENS, DONE):
            await response.write(piece)
            writer = request.writer
            assert isinstance(writer, StreamWriter)
            counts.append((writer.output_size, writer.buffer_size))

    registry.open("r1")
    await ask(await serve(Scene(script).app(None)))
    await ask(await serve(Scene(script).app(registry)))

    plain, observed = counts[:7], counts[7:]
    assert observed == plain
    assert plain[0] < plain[-1]


async def test_a_write_to_a_connection_that_closes_raises_and_is_not_told(
    serve: Serve, registry: RolloutRegistry, recorder: TelemetryRecorder
) -> None:
    """Also before aiohttp has heard that the connection is lost."""

    async def script(request: web.Request, response: web.StreamResponse) -> None:
        await writes(chunk(), chunk())(request, response)
        assert request.transport is not None
        request.transport.abort()
        await response.write(chunk())

    scene = Scene(script)
    registry.open("r1")
    await ask(await serve(scene.app(registry)))

    await until(lambda: outcomes(recorder) == ["cut"])
    assert type(scene.raised) is ClientConnectionResetError
    assert failure_of(recorder) == ("agent_disconnected", Phase.CHUNK)
    assert scene.meter_says() == scan_says([chunk(), chunk()])


async def test_an_aiohttp_that_frames_otherwise_frames_each_chunk(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """What a release to come does is found out, whatever the names that it uses."""

    def shouts(self: StreamWriter, chunk: bytes) -> None:
        size = f"{len(chunk):X}\r\n".encode("ascii")
        self._writelines((size, chunk, b"\r\n"))

    async def script(request: web.Request, response: web.StreamResponse) -> None:
        await writes(chunk(), chunk("x" * 90), DONE)(request, response)
        kinds.append(type(request.writer))

    kinds: list[type] = []
    registry.open("r1")
    size = f"{len(chunk('x' * 90)):x}"
    own = FunctionType(shouts.__code__, vars(http_writer))
    with put_around("_write_chunked_payload", own):
        got = await ask(await serve(Scene(script).app(registry)))

    assert kinds == [ObservedWriter]
    assert size != size.upper()
    assert f"\r\n{size.upper()}\r\n".encode() in got


@pytest.mark.skipif(
    not hasattr(StreamWriter, "on_body_write"), reason="not before aiohttp 3.14.4"
)
async def test_who_asked_to_be_told_of_each_chunk_is_told(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """The hook for accepted chunks is called as aiohttp calls it."""
    told: list[tuple[int, int]] = []

    async def script(request: web.Request, response: web.StreamResponse) -> None:
        await response.write(chunk())
        request.writer.on_body_write = lambda size, total: told.append((size, total))
        await response.write(chunk("two"))
        await response.write(chunk("three"))

    registry.open("r1")
    await ask(await serve(Scene(script).app(None)))
    await ask(await serve(Scene(script).app(registry)))

    assert [size for size, _ in told] == [len(chunk("two")), len(chunk("three"))] * 2
    assert told[:2] == told[2:]


FLOOD = 16_000_000
SHORT, LONG = 1_800, 4_000


def floods(written: list[bytes], size: int = SHORT) -> Script:
    """Make a script that writes more than any buffer on the way takes."""

    async def script(_request: web.Request, response: web.StreamResponse) -> None:
        for number in range(FLOOD // size):
            piece = chunk(f"{number} " + "x" * size)
            await response.write(piece)
            written.append(piece)
        await response.write(DONE)
        written.append(DONE)

    return script


async def is_held_up(written: list[bytes]) -> None:
    """Wait until a write waits for the agent."""
    before = -1
    while before != len(written):
        before = len(written)
        await settle()


@pytest.mark.parametrize("size", [SHORT, LONG])
async def test_a_slow_agent_holds_the_handler_up_and_gets_everything(
    serve: Serve, registry: RolloutRegistry, size: int
) -> None:
    """A write waits for an agent that does not read, and is told when it is through."""
    written: list[bytes] = []
    scene = Scene(floods(written, size))
    registry.open("r1")
    reader, writer = await connect(await serve(scene.app(registry)))
    await is_held_up(written)
    held_up_at = len(written)
    told_while_held_up = scene.meter_says()
    said_while_held_up = scan_says_whole(written)

    answer = await reader.read()
    writer.close()

    assert 0 < held_up_at < FLOOD // size
    assert told_while_held_up == said_while_held_up
    assert answer.count(b'data: {"choices"') == FLOOD // size
    assert scene.meter_says() == scan_says_whole(written)


def scan_says_whole(written: list[bytes]) -> tuple[object, ...]:
    """Give what a scan says of a long stream, fed by the write."""
    scanner = SseScanner(Dialect.CHAT_COMPLETIONS)
    for piece in written:
        scanner.feed(bytearray(piece))
    return (
        *(scanner.chunks, sum(map(len, written)), scanner.keepalives),
        *(scanner.terminal, scanner.error, scanner.response),
    )


@pytest.mark.parametrize("size", [SHORT, LONG])
async def test_an_agent_that_leaves_a_waiting_write_is_cut(
    serve: Serve, registry: RolloutRegistry, recorder: TelemetryRecorder, size: int
) -> None:
    """The write raises what it raises, and its chunk is not told as written."""
    written: list[bytes] = []
    scene = Scene(floods(written, size))
    registry.open("r1")
    _, writer = await connect(await serve(scene.app(registry)))
    await is_held_up(written)

    writer.transport.abort()

    await until(lambda: outcomes(recorder) == ["cut"])
    assert isinstance(scene.raised, ConnectionError)
    assert failure_of(recorder) == ("agent_disconnected", Phase.CHUNK)
    assert scene.meter_says() == scan_says_whole(written)


@pytest.mark.parametrize("size", [SHORT, LONG])
async def test_a_waiting_write_that_is_cancelled_is_not_told(
    serve: Serve, registry: RolloutRegistry, recorder: TelemetryRecorder, size: int
) -> None:
    """Cancellation passes, is no failure, and leaves what was counted as it was."""
    written: list[bytes] = []
    scene = Scene(floods(written, size))
    rollout = registry.open("r1")
    _, writer = await connect(await serve(scene.app(registry)))
    await is_held_up(written)

    assert scene.task is not None
    scene.task.cancel()

    await until(lambda: outcomes(recorder) == ["cancelled"])
    writer.transport.abort()
    assert isinstance(scene.raised, asyncio.CancelledError)
    assert rollout.error is None
    assert scene.meter_says() == scan_says_whole(written)


@pytest.mark.parametrize("version", [HTTP_1_1, HTTP_1_0])
async def test_writes_after_the_agent_left_raise_and_are_not_told(
    serve: Serve, registry: RolloutRegistry, recorder: TelemetryRecorder, version: str
) -> None:
    """Each raises as without us; the first is the failure."""
    gone = asyncio.Event()
    raised: list[type] = []

    async def script(_request: web.Request, response: web.StreamResponse) -> None:
        await response.write(chunk())
        await response.write(chunk())
        await gone.wait()
        for _ in range(2):
            try:
                await response.write(chunk())
            except ConnectionError as exc:
                raised.append(type(exc))

    scene = Scene(script)
    registry.open("r1")
    reader, writer = await connect(await serve(scene.app(registry)), version)
    await reader.readuntil(b"word")
    writer.transport.abort()
    await settle()
    gone.set()

    await until(lambda: outcomes(recorder) == ["cut"])
    assert len(raised) == 2
    assert failure_of(recorder) == ("agent_disconnected", Phase.CHUNK)
    assert scene.meter_says() == scan_says([chunk(), chunk()])


async def test_a_write_after_the_end_raises_and_is_not_told(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """The response refuses it; the exchange has ended well."""

    async def script(_request: web.Request, response: web.StreamResponse) -> None:
        await response.write(chunk())
        await response.write(DONE)
        await response.write_eof()
        with contextlib.suppress(RuntimeError):
            await response.write(chunk())

    scene = Scene(script)
    registry.open("r1")
    await ask(await serve(scene.app(registry)))

    assert scene.exchange is not None
    assert scene.exchange.outcome == "ok"
    assert scene.meter_says() == scan_says([chunk(), DONE])
