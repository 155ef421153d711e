"""What the scanner does with events that are too long, endless or hostile."""

import time
import tracemalloc

import pytest

from otel_intercept.semconv import Dialect
from otel_intercept.sse import MAX_EVENT_BYTES, SseScanner

CHAT = Dialect.CHAT_COMPLETIONS
RESPONSES = Dialect.RESPONSES
MESSAGES = Dialect.MESSAGES


def scan(dialect: Dialect, *feeds: bytes) -> SseScanner:
    """Return a scanner that has seen the feeds and the end of the stream."""
    scanner = SseScanner(dialect)
    for data in feeds:
        scanner.feed(data)
    scanner.end()
    return scanner


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b'{"error":' * 50_000, b'{"error": ' + b"9" * 5_000 + b"}", b"{"],
)
def test_hostile_json_is_a_chunk(data: bytes) -> None:
    """JSON that the parser refuses neither raises nor counts as an error."""
    scanner = scan(CHAT, b"data: " + data + b'"error"\n\n')

    assert scanner.chunks == 1 or scanner.truncated_events == 1


@pytest.mark.parametrize(
    ("dialect", "head", "field"),
    [
        (CHAT, b'data: {"id": "', "chunks"),
        (MESSAGES, b'data: {"type": "content_block_delta", "x": "', "chunks"),
        (RESPONSES, b'data: {"type":"response.completed","x":"', "terminal"),
        (RESPONSES, b'event: response.completed\ndata: {"x":"', "terminal"),
        (MESSAGES, b'event: ping\ndata: {"x":"', "keepalives"),
        (CHAT, b'data: {"error": {"message":"', "error"),
        (CHAT, b'data: {"error":"', "error"),
        (CHAT, b'data: {"error":"",', "chunks"),
        (MESSAGES, b'event: error\ndata: {"x":"', "error"),
    ],
)
def test_an_over_long_event_is_judged_by_its_beginning(
    dialect: Dialect, head: bytes, field: str
) -> None:
    """A huge response.completed still ends its stream, though it is not parsed."""
    scanner = scan(dialect, head + b"a" * MAX_EVENT_BYTES, b'"}\n\n')

    fields = ("chunks", "keepalives", "terminal", "error")
    assert [name for name in fields if getattr(scanner, name)] == [field]
    assert scanner.truncated_events == 1
    assert scanner.response == ()


def test_the_limit_is_exact_and_the_next_event_is_unharmed() -> None:
    """Data of exactly the limit is parsed; one byte more is not."""
    scanner = SseScanner(CHAT, max_event_bytes=300)
    text = b'{"error":null,"usage":{"prompt_tokens":1},"x":"%b"}'
    fits = text % (b"a" * (300 - len(text) + 2))

    scanner.feed(b"data: " + fits + b"\n\n")
    assert (scanner.truncated_events, scanner.response != ()) == (0, True)

    scanner.feed(b"data: " + fits + b" \n\ndata: {}\n\n")
    assert (scanner.truncated_events, scanner.chunks) == (1, 3)


@pytest.mark.parametrize(
    "piece",
    [b"a" * 4096, b"data: %b\n" % (b"a" * 90) * 40, b"data\n" * 800, b": a\n" * 1000],
)
def test_memory_is_bounded_on_endless_events(piece: bytes) -> None:
    """A megabyte without an end of event keeps less than half of it."""
    peaks = []
    # A thread that another test has left behind may take memory during one of them.
    for _ in range(3):
        scanner = SseScanner(CHAT)
        scanner.feed(b"data: a")
        tracemalloc.start()
        for _ in range(1_200_000 // len(piece)):
            scanner.feed(piece)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert min(peaks) < 500_000


@pytest.mark.parametrize("size", [1, 300_000])
@pytest.mark.parametrize("piece", [b"a", b"data\n", b"data: a\n", b": \n"])
def test_time_is_linear_in_the_bytes(piece: bytes, size: int) -> None:
    """A long event takes time by its length, byte by byte or in one feed."""
    data = b"data: " + piece * (300_000 // len(piece))
    scanner = SseScanner(CHAT)
    start = time.process_time()

    if size == 1:
        for index in range(len(data)):
            scanner.feed(data[index : index + 1])
    else:
        scanner.feed(data)
    scanner.feed(b"\n\n")

    assert time.process_time() - start < 5
    assert scanner.chunks + scanner.keepalives >= 1
