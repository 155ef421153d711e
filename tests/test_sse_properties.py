"""The scanner agrees with a slow reference parser, however the bytes are cut."""

import json
import re
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_intercept.dialect import STREAM_GRAMMARS, ResponseFacts, error_words
from otel_intercept.record import Attributes
from otel_intercept.semconv import Dialect
from otel_intercept.sse import SseScanner

LIMIT = 300

Result = tuple[int, int, bool, tuple[str | None, str | None] | None, int, Attributes]


def result_of(scanner: SseScanner) -> Result:
    """Return all that a scanner says."""
    return (
        scanner.chunks,
        scanner.keepalives,
        scanner.terminal,
        scanner.error,
        scanner.truncated_events,
        scanner.response,
    )


def scan(dialect: Dialect, feeds: list[bytes]) -> Result:
    """Return what the scanner says of the feeds."""
    scanner = SseScanner(dialect, max_event_bytes=LIMIT)
    total = sum(scanner.feed(data) for data in feeds) + scanner.end()
    assert total == scanner.chunks
    return result_of(scanner)


class Reference:
    """The WHATWG grammar line by line over the whole stream; parses all JSON."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.chunks = self.keepalives = self.truncated = 0
        self.terminal = False
        self.error: tuple[str | None, str | None] | None = None
        self.facts = ResponseFacts()

    def parse(self, stream: bytes) -> Result:
        """Return what a scanner should say of the stream."""
        lines = re.split(rb"\r\n|\r|\n", stream.removeprefix(b"\xef\xbb\xbf"))
        name, data = b"", list[bytes]()
        for line in [*lines, b""]:
            field, colon, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if not line:
                self.event(name.decode("latin-1"), b"\n".join(data))
                name, data = b"", []
            elif not field and colon:
                self.keepalives += 1
            elif field == b"data":
                data.append(value)
            elif field == b"event":
                name = value
        return (
            self.chunks,
            self.keepalives,
            self.terminal,
            self.error,
            self.truncated,
            self.facts.attributes,
        )

    def event(self, name: str, data: bytes) -> None:
        """Judge one event."""
        typed = self.dialect not in (Dialect.CHAT_COMPLETIONS, Dialect.COMPLETIONS)
        kinds, body, failed = {name}, dict[str, object](), False
        if data.startswith(b"[DONE]") and len(data) <= LIMIT:
            self.terminal = True
            return
        if len(data) > LIMIT:
            self.truncated += 1
            head = data[: min(LIMIT, 256)]
            kind = re.match(rb'\s*\{\s*"type"\s*:\s*"([\w.]{1,64})"', head)
            if typed and kind:
                kinds.add(kind[1].decode())
            failed = bool(re.match(rb'\s*\{\s*"error"\s*:\s*(\{\s*"|"[^"])', head))
        elif data.strip():
            try:
                parsed = json.loads(data.decode("utf-8", "replace"))
            except ValueError:
                parsed = None
            if isinstance(parsed, dict):
                body = parsed
                failed = bool(body.get("error"))
                kind_field = body.get("type")
                if typed and isinstance(kind_field, str):
                    kinds.add(kind_field)
        self.judge(kinds, body, failed=failed, empty=not data.strip())

    def judge(
        self, kinds: set[str], body: dict[str, object], *, failed: bool, empty: bool
    ) -> None:
        """Count one event by its kinds."""
        any_dialect = self.dialect is Dialect.OTHER
        responses = any_dialect or self.dialect is Dialect.RESPONSES
        messages = any_dialect or self.dialect is Dialect.MESSAGES
        if failed or "error" in kinds or (responses and "response.failed" in kinds):
            self.error = self.error or error_words(body)
        elif (
            responses
            and not empty
            and kinds & {"response.completed", "response.incomplete"}
        ) or (messages and not empty and "message_stop" in kinds):
            self.terminal = True
        elif kinds & {"ping", "keepalive"}:
            self.keepalives += 1
            return
        elif not empty:
            self.chunks += 1
        self.facts.add_event(body, STREAM_GRAMMARS[self.dialect])


KINDS = st.sampled_from(
    ["ping", "keepalive", "error", "message_start", "message_delta", "message_stop",
     "response.completed", "response.incomplete", "response.failed",
     "response.output_text.delta", "content_block_delta", "message"]
)  # fmt: skip
TEXTS = st.sampled_from(
    [
        "a",
        "error",
        "ping",
        '"error": {}',
        "[DONE]",
        "stop",
        "gpt-5",
        "x" * 120,
        "é\u2028",
    ]
)
KEYS = st.sampled_from(
    ["type", "error", "usage", "finish_reason", "choices", "model", "response",
     "message", "delta", "code", "stop_reason", "status", "input_tokens",
     "prompt_tokens", "index"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 600) | TEXTS | KINDS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=8,
)
EVENTS = st.dictionaries(KEYS, JSON, max_size=4) | st.builds(
    lambda kind, rest: {"type": kind} | rest, KINDS, st.dictionaries(KEYS, JSON)
)
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")])
INDENTS = st.sampled_from([None, None, None, 1])
END = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r"])
NOISE = st.sampled_from(
    [": keepalive", ":", "id: 1", "retry: 5", "event", "data", "data:", "garbage", "",
     "data: [DONE]", "data:[DONE]", "event: " + "e" * 100, "data: " + "x" * 280,
     "event: ping", "event:error", "data: not json", "\ufeffdata: {}"]
)  # fmt: skip


@st.composite
def event_blocks(draw: st.DrawFn) -> bytes:
    """Draw one event or one line of noise, with any line ends."""
    end = draw(END)
    if draw(st.booleans()):
        noise: str = draw(NOISE)
        return (noise + end * draw(st.integers(0, 2))).encode()
    text = json.dumps(draw(EVENTS), separators=draw(SEPARATORS), indent=draw(INDENTS))
    space = draw(st.sampled_from([" ", " ", ""]))
    lines = [f"data:{space}{line}" for line in text.split("\n")]
    if draw(st.booleans()):
        lines.insert(draw(st.integers(0, 1)), f"event:{space}{draw(KINDS)}")
    return (end.join(lines) + end * draw(st.sampled_from([1, 2, 2, 2]))).encode()


STREAMS = st.lists(event_blocks(), max_size=8).map(b"".join) | st.lists(
    st.sampled_from(
        [b"data", b":", b" ", b"\n", b"\r", b"{", b"}", b'"error"', b"event", b"ping",
         b"[DONE]", b"\xef\xbb\xbf", b"\xef", b"\xff", b"\0", b"x" * 150, b'"usage"',
         b'{"type":"message_stop"', b'{"error":"', b"null", b",", b"\n\n"]
    ),
    max_size=40,
).map(b"".join)  # fmt: skip


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stream=STREAMS, dialect=st.sampled_from(Dialect))
def test_the_scanner_agrees_with_the_reference(stream: bytes, dialect: Dialect) -> None:
    """One feed of any stream gives what parsing everything slowly gives."""
    expected = Reference(dialect).parse(stream)

    assert scan(dialect, [stream]) == expected


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stream=STREAMS, dialect=st.sampled_from(Dialect), data=st.data())
def test_any_split_gives_the_same_result(
    stream: bytes, dialect: Dialect, data: st.DataObject
) -> None:
    """How a stream is cut into feeds, empty ones included, changes nothing."""
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20).map(sorted))
    bounds = [0, *cuts, len(stream)]
    feeds = [stream[a:b] for a, b in pairwise(bounds)]
    bytewise = [stream[i : i + 1] for i in range(len(stream))]
    eventwise = re.split(rb"(?<=\n\n)", stream)

    whole = scan(dialect, [stream])

    assert scan(dialect, feeds) == whole
    assert scan(dialect, bytewise) == whole
    assert scan(dialect, eventwise) == whole


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stream=st.binary(max_size=200), dialect=st.sampled_from(Dialect))
def test_arbitrary_bytes_never_raise(stream: bytes, dialect: Dialect) -> None:
    """Bytes that are no event stream at all are scanned all the same."""
    assert scan(dialect, [stream]) == Reference(dialect).parse(stream)
