"""A chunk that is recognised at a glance is counted as if it had been scanned."""

import json

from hypothesis import given
from hypothesis import strategies as st

from otel_intercept.semconv import Dialect
from otel_intercept.sse import SseScanner
from otel_intercept.stream import StreamMeter

WORDS = st.sampled_from(
    ["word", "", "error", "usage", "ping", "message_stop", 'a "quote"', "\\", "\n", "é",
     "\r", "[DONE]", "\n\ndata: [DONE]\n\n", "finish_reason"]
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


@given(streams(), st.sampled_from(list(Dialect)))
def test_a_meter_sees_what_a_scanner_sees(
    stream: list[bytes], dialect: Dialect
) -> None:
    """Chunks, terminal events and errors are those of a scan of every byte."""
    scanner, meter = SseScanner(dialect), StreamMeter(dialect, 0)

    for data in stream:
        scanner.feed(bytearray(data))
        meter.feed(data)
    scanner.end()
    meter.end()

    seen = meter.chunks, meter.terminal, meter.error, meter.facts().keepalives
    assert seen == (
        scanner.chunks,
        scanner.terminal,
        scanner.error,
        scanner.keepalives,
    )
    assert meter.response == scanner.response


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
