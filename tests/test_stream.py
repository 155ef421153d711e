"""A chunk that is recognised at a glance is counted as if it had been scanned."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_intercept.semconv import Dialect
from otel_intercept.sse import SseScanner
from otel_intercept.stream import StreamMeter

FRAME = b'data: {"error": {"type": "overloaded_error"}}\n\n'
DONE = b"data: [DONE]\n\n"
LONG = "a text that is longer than the texts of most chunks are, by some words"
WORDS = st.sampled_from(
    ["word", LONG, "", "error", "usage", "ping", "message_stop", 'a "quote"', "\\",
     "\n", "é", "\r", "[DONE]", "\n\ndata: [DONE]\n\n", "finish_reason"]
)  # fmt: skip
KEYS = st.sampled_from(["content", "text", "delta", "type", "error", "role"])


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """Draw an event, well formed or not."""
    name, key, word = draw(KEYS), draw(KEYS), draw(WORDS)
    payload = {
        "id": "c1",
        "choices": [{"delta": {key: word}, "finish_reason": None}],
        name: draw(WORDS),
    }
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    text = json.dumps(payload, separators=separators)
    if draw(st.integers(0, 3)) == 0:
        # What an upstream writes need not be JSON: the text stands as it is.
        text = text.replace(json.dumps(word), f'"{word}"')
    named = draw(st.sampled_from(["", "event: chunk\n", "event: error\n"]))
    return f"{named}data: {text}\n\n".encode()


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Draw a stream whose events repeat each other, and other events between them."""
    return [
        event
        for event in draw(st.lists(events(), max_size=8))
        for event in [event] * draw(st.integers(1, 3))
    ]


@st.composite
def feeds(draw: st.DrawFn) -> list[bytes]:
    """Draw the writes of a stream: mostly whole events, or cut anywhere."""
    pieces: list[bytes] = []
    for event in draw(streams()):
        pieces.append(event)
        if draw(st.integers(0, 9)) == 0:
            pieces.append(draw(st.sampled_from([b": keepalive\n\n", b"", DONE, b"\n"])))
    kind = draw(st.sampled_from(["events", "events", "pairs", "anywhere"]))
    stream = b"".join(pieces)
    if kind == "pairs":
        pieces = re.findall(rb"(?s).+?\n\n.*?(?:\n\n|$)", stream)
    elif kind == "anywhere" and stream:
        cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=9)))
        bounds = zip([0, *cuts], [*cuts, len(stream)], strict=True)
        pieces = [stream[start:end] for start, end in bounds]
    return pieces


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(feeds(), st.sampled_from(list(Dialect)))
def test_a_meter_sees_what_a_scanner_sees(
    written: list[bytes], dialect: Dialect
) -> None:
    """After each write, all that is told is what a scan of every byte says."""
    scanner, meter = SseScanner(dialect), StreamMeter(dialect, 0)
    feeds_with_chunks = size = 0

    for data in written:
        size += len(data)
        # No write of this length is taken for one whole event.
        chunks = sum(scanner.feed(data[i : i + 1]) for i in range(len(data)))
        failed = meter.feed(data)

        feeds_with_chunks += chunks > 0
        assert failed is (scanner.error is not None)
        check(meter, scanner)
        facts = meter.facts()
        assert facts.bytes == size
        assert (facts.time_to_first_chunk_s is not None) is (feeds_with_chunks > 0)
        assert (facts.max_gap_s > 0) is (feeds_with_chunks > 1)
    scanner.end()
    meter.end()

    check(meter, scanner)


def check(meter: StreamMeter, scanner: SseScanner) -> None:
    """See that a meter says what a scanner says."""
    seen = meter.chunks, meter.terminal, meter.error, meter.facts().keepalives
    assert seen == (
        scanner.chunks,
        scanner.terminal,
        scanner.error,
        scanner.keepalives,
    )
    assert meter.response == scanner.response
    assert meter.facts().chunks == scanner.chunks


@given(st.binary(max_size=200), st.integers(0, 3))
def test_a_text_of_any_bytes_is_a_text_only_inside_its_quotes(
    text: bytes, key: int
) -> None:
    """Whatever stands where the text was, a chunk is counted as a scan counts it."""
    name = (b"content", b"text", b"delta", b"reasoning_content")[key]
    chunk = b'data: {"choices": [{"d": {"%s": "%s"}, "finish_reason": null}]}\n\n'
    scanner, meter = SseScanner(Dialect.OTHER), StreamMeter(Dialect.OTHER, 0)

    for data in (chunk % (name, b"hi"), chunk % (name, text), chunk % (name, b"")):
        for byte in data:
            scanner.feed(bytes((byte,)))
        meter.feed(data)

        check(meter, scanner)


BEFORE, AFTER = b'data: {"choices": [{"delta": {"content": "', b'"}}]}\n\n'
BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    "feeds",
    [
        (b": no prefix" + AFTER,),
        (b"event: error" + AFTER,),
        (BEFORE + b"no suffix", AFTER),
        (BEFORE + b"no suffix\n\n",),
        (BEFORE + b"a\n\ndata: [DONE]\n\n" + AFTER,),
        (BEFORE + b"a\r\rdata: [DONE]\r\r" + AFTER,),
        (BEFORE + b"a\n\nevent: error\ndata:\n\n" + AFTER,),
        (BEFORE + LONG.encode() + b"\n\ndata: [DONE]\n\n" + AFTER,),
        (BEFORE + LONG.encode() + b"\r\rdata: [DONE]\r\r" + AFTER,),
        (BEFORE + LONG.encode() + b'", "error": "' + AFTER,),
        (BEFORE + LONG.encode(), AFTER),
        (b": cut ", BEFORE + AFTER),
        (b"event: error\n", BEFORE + AFTER),
        (b"event: error\n", BEFORE + LONG.encode() + AFTER),
        (b"data: cut", BEFORE + AFTER, b"\n\n"),
        (b"\r", b"\n" + BEFORE + AFTER),
        (BOM + BEFORE + AFTER,),
        (BOM[:1], BEFORE + AFTER),
        (FRAME, BEFORE + AFTER, BEFORE + AFTER),
    ],
)
@pytest.mark.parametrize("learned", [True, False])
def test_what_only_looks_like_a_chunk_is_scanned(
    feeds: tuple[bytes, ...], *, learned: bool
) -> None:
    """What differs in more than the text, or comes within an event, is no chunk."""
    scanner = SseScanner(Dialect.CHAT_COMPLETIONS)
    meter = StreamMeter(Dialect.CHAT_COMPLETIONS, 0)
    known = [BEFORE + b"word" + AFTER] * 2 if learned else []

    for data in (*known, *feeds, BEFORE + b"word" + AFTER):
        for byte in data:
            scanner.feed(bytes((byte,)))
        failed = meter.feed(data)

        assert failed is (scanner.error is not None)
        check(meter, scanner)


def test_a_text_between_equal_chunks_is_all_that_may_differ() -> None:
    """A terminal event and an error between repeated chunks are not overlooked."""
    chunk = b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n'
    meter = StreamMeter(Dialect.CHAT_COMPLETIONS, 0)
    for _ in range(10):
        meter.feed(chunk % b"word")

    error = b'"error": {"type": "overloaded_error"}'
    meter.feed(chunk % (b'x"}}], %s, "m": [{"n": {"o": "' % error))
    meter.feed(chunk % b"x\n\ndata: [DONE]\n\n")

    assert meter.error == ("overloaded_error", None)
    assert meter.terminal
