"""The scanner counts what the agent's SDK would see, however the bytes are cut."""

import contextlib
import json

import pytest

from otel_intercept.dialect import STREAM_GRAMMARS, ResponseFacts
from otel_intercept.semconv import (
    GEN_AI_RESPONSE_FINISH_REASONS,
    GEN_AI_RESPONSE_MODEL,
    GEN_AI_USAGE_INPUT_TOKENS,
    GEN_AI_USAGE_OUTPUT_TOKENS,
    Dialect,
)
from otel_intercept.sse import SseScanner

CHAT = Dialect.CHAT_COMPLETIONS
COMPLETIONS = Dialect.COMPLETIONS
RESPONSES = Dialect.RESPONSES
MESSAGES = Dialect.MESSAGES
ALL = tuple(Dialect)


def scan(dialect: Dialect, *feeds: bytes) -> SseScanner:
    """Return a scanner that has seen the feeds and the end of the stream."""
    scanner = SseScanner(dialect)
    for data in feeds:
        scanner.feed(data)
    scanner.end()
    return scanner


def chat_chunk(**fields: object) -> bytes:
    """Return one event of a chat stream."""
    choice = {"index": 0, "delta": {"content": "a"}, "finish_reason": None}
    return b"data: %b\n\n" % json.dumps({"choices": [choice], **fields}).encode()


def typed(kind: str, *, name: bool = True, **fields: object) -> bytes:
    """Return one event whose data names its kind."""
    data = json.dumps({"type": kind, **fields})
    return f"{f'event: {kind}' if name else 'id: 1'}\ndata: {data}\n\n".encode()


def test_a_whole_chat_stream_is_counted() -> None:
    """Chunks, keepalives, terminal, model, usage and finish reason are all seen."""
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    last = [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]

    scanner = scan(
        CHAT,
        b": keepalive\n\n",
        chat_chunk(),
        chat_chunk(usage=None),
        chat_chunk(choices=last, model="gpt-5"),
        chat_chunk(choices=[], usage=usage),
        b"data: [DONE]\n\n",
    )

    assert scanner.chunks == 4
    assert scanner.keepalives == 1
    assert scanner.terminal
    assert scanner.error is None
    assert dict(scanner.response) == {
        GEN_AI_RESPONSE_MODEL: "gpt-5",
        GEN_AI_USAGE_INPUT_TOKENS: 3,
        GEN_AI_USAGE_OUTPUT_TOKENS: 4,
        GEN_AI_RESPONSE_FINISH_REASONS: ("tool_calls",),
    }


def test_a_whole_messages_stream_is_counted() -> None:
    """Pings are keepalives, usage is merged, and message_stop ends the stream."""
    message = {"model": "claude-5", "usage": {"input_tokens": 3, "output_tokens": 1}}

    scanner = scan(
        MESSAGES,
        typed("message_start", message=message),
        typed("ping"),
        typed("content_block_delta", delta={"type": "text_delta", "text": "a"}),
        typed(
            "message_delta",
            delta={"stop_reason": "end_turn"},
            usage={"output_tokens": 9},
        ),
        typed("message_stop"),
    )

    assert scanner.chunks == 3
    assert scanner.keepalives == 1
    assert scanner.terminal
    assert dict(scanner.response) == {
        GEN_AI_RESPONSE_MODEL: "claude-5",
        GEN_AI_USAGE_INPUT_TOKENS: 3,
        GEN_AI_USAGE_OUTPUT_TOKENS: 9,
        GEN_AI_RESPONSE_FINISH_REASONS: ("end_turn",),
    }


def test_a_whole_responses_stream_is_counted() -> None:
    """OpenAI's keepalive events count as such; response.completed has the facts."""
    response = {
        "model": "gpt-5",
        "status": "completed",
        "usage": {"input_tokens": 3, "output_tokens": 4},
    }

    scanner = scan(
        RESPONSES,
        typed("response.created", response={"status": "in_progress", "error": None}),
        typed("keepalive", sequence_number=4),
        typed("response.output_text.delta", delta="a"),
        typed("response.completed", response=response),
    )

    assert scanner.chunks == 2
    assert scanner.keepalives == 1
    assert scanner.terminal
    assert dict(scanner.response) == {
        GEN_AI_RESPONSE_MODEL: "gpt-5",
        GEN_AI_USAGE_INPUT_TOKENS: 3,
        GEN_AI_USAGE_OUTPUT_TOKENS: 4,
        GEN_AI_RESPONSE_FINISH_REASONS: ("completed",),
    }


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize("data", [b"data: [DONE]\n\n", b"data:[DONE]\r\n\r\n"])
def test_done_is_terminal_in_every_dialect(dialect: Dialect, data: bytes) -> None:
    """Hosts exist that end every route with [DONE]."""
    scanner = scan(dialect, data)

    assert scanner.terminal
    assert scanner.chunks == 0


@pytest.mark.parametrize(
    ("dialect", "kind"),
    [
        (RESPONSES, "response.completed"),
        (RESPONSES, "response.incomplete"),
        (MESSAGES, "message_stop"),
        (Dialect.OTHER, "message_stop"),
    ],
)
@pytest.mark.parametrize("name", [True, False])
def test_terminal_events_are_known_by_name_and_by_type(
    dialect: Dialect, kind: str, name: bool
) -> None:
    """A terminal event needs no event line, if its data has the type."""
    scanner = scan(dialect, typed(kind, name=name))

    assert scanner.terminal
    assert scanner.chunks == 0


@pytest.mark.parametrize(
    ("dialect", "data"),
    [
        (CHAT, typed("message_stop")),
        (COMPLETIONS, typed("response.completed")),
        (RESPONSES, typed("message_stop")),
        (RESPONSES, typed("response.web_search_call.completed")),
        (MESSAGES, typed("response.completed")),
        (MESSAGES, typed("content_block_stop")),
        (CHAT, chat_chunk(text="[DONE]")),
    ],
)
def test_other_events_are_not_terminal(dialect: Dialect, data: bytes) -> None:
    """A terminal event of another dialect is a chunk like any other."""
    scanner = scan(dialect, data)

    assert not scanner.terminal
    assert scanner.chunks == 1


@pytest.mark.parametrize(
    ("dialect", "data", "words"),
    [
        (CHAT, b'{"error": {"type": "a", "code": "b"}}', ("a", "b")),
        (CHAT, b'{"id": "1", "error": {"message": "no", "code": 503}}', (None, "503")),
        (COMPLETIONS, b'{"error":"busy"}', (None, None)),
        (RESPONSES, b'{"type":"error","code":"c"}', ("error", "c")),
        (
            RESPONSES,
            b'{"type":"response.failed","response":{"error":{"code":"c"}}}',
            (None, "c"),
        ),
        (RESPONSES, b'{"error":{"type":"a"}}', ("a", None)),
        (MESSAGES, b'{"type":"error","error":{"type":"overloaded_error"}}',
         ("overloaded_error", None)),
        (MESSAGES, b'{"error":{"type":"a"}}', ("a", None)),
        (MESSAGES, b'{"type": "error"}', ("error", None)),
        (Dialect.OTHER, b'{"type":"response.failed"}', ("response.failed", None)),
    ],
)  # fmt: skip
def test_error_frames_of_each_dialect(
    dialect: Dialect, data: bytes, words: tuple[str | None, str | None]
) -> None:
    """An error object at the top, or the dialect's error type, is an error frame."""
    scanner = scan(dialect, b"data: " + data + b"\n\n", b"data: [DONE]\n\n")

    assert scanner.error == words
    assert scanner.chunks == 0
    assert scanner.terminal


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize(
    "data",
    [
        b"event: error\ndata: oops\n\n",
        b'event: error\ndata: {"message": "no"}\n\n',
        b"event:error\n\n",
        b"event: error\rdata",
    ],
)
def test_an_event_named_error_is_an_error_frame(dialect: Dialect, data: bytes) -> None:
    """The Anthropic SDK raises on the name alone, without readable or any data."""
    scanner = scan(dialect, b"data: {}\n\n", data)

    assert scanner.error == (None, None)
    assert scanner.chunks == 1


def test_the_first_error_frame_counts() -> None:
    """A later error frame does not replace what the first one said."""
    scanner = scan(
        CHAT, b'data: {"error": {"type": "a"}}\n\ndata: {"error": {"type": "b"}}\n\n'
    )

    assert scanner.error == ("a", None)


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize(
    "text",
    [
        "error",
        'the "error": {"type": "overloaded_error"} of the server',
        '{"error": {"message": "no"}}',
        "response.failed",
        "message_stop",
        "[DONE]",
        "ping",
        "event: error\ndata: {}\n\n",
        "data: [DONE]\r\n\r\n",
    ],
)
def test_text_of_the_model_is_only_text(dialect: Dialect, text: str) -> None:
    """A model that talks about errors, terminals and pings makes chunks, no errors."""
    scanner = scan(
        dialect,
        chat_chunk(delta={"content": text}, text=text),
        typed("content_block_delta", delta={"type": "text_delta", "text": text}),
        typed("response.output_text.delta", delta=text, tool={"error": {"type": "a"}}),
        b"data: %b\n\n" % json.dumps([{"error": text}, "error"]).encode(),
    )

    assert scanner.chunks == 4
    assert scanner.error is None
    assert not scanner.terminal


@pytest.mark.parametrize(
    "value", [b"null", b" null", b"\tnull", b"false", b'""', b"{}", b"[]", b"0"]
)
def test_a_falsy_error_is_no_error(value: bytes) -> None:
    """Hosts that send an empty error field on every chunk send chunks."""
    scanner = scan(CHAT, b'data: {"choices": [], "error":%b}\n\n' % value)

    assert scanner.error is None
    assert scanner.chunks == 1


@pytest.mark.parametrize(
    "data",
    [
        b'{"finish_reason":null,"choices":[{"finish_reason":"stop"}]}',
        b'{"choices":[{"finish_reason":"stop"}],"finish_reason": null}',
        b'{"choices":[{"finish_reason"\t:\t"stop"}]}',
    ],
)
def test_a_null_does_not_hide_another_finish_reason(data: bytes) -> None:
    """Skipping null fields is exact: the other occurrence is still found."""
    scanner = scan(CHAT, chat_chunk(), b"data: " + data + b"\n\n")

    assert scanner.response == ((GEN_AI_RESPONSE_FINISH_REASONS, ("stop",)),)


@pytest.mark.parametrize(
    ("data", "chunks", "keepalives"),
    [
        (b"data: {}\n\n", 1, 0),
        (b"data:{}\n\n", 1, 0),
        (b"data: {}\r\n\r\n", 1, 0),
        (b"data: {}\r\r", 1, 0),
        (b"\xef\xbb\xbfdata: {}\n\n", 1, 0),
        (b"data: {}\n\n\xef\xbb\xbfdata: {}\n\n", 1, 0),
        (b"data: {\ndata: }\n\n", 1, 0),
        (b"id: 1\nretry: 5\nevent: x\ndata: {}\n\n", 1, 0),
        (b"data: {}\n: c\n\n", 1, 1),
        (b"data: {}", 1, 0),
        (b"data: {}\n", 1, 0),
        (b"data: {}\n\ndata: {}\n\ndata: {}\n\n", 3, 0),
        (b"data: {}\rdata: {}\n\n", 1, 0),
        (b"data: \xff\xfe\n\n", 1, 0),
        (b"data\n\n", 0, 0),
        (b"data:\n\n", 0, 0),
        (b"data: \n\n", 0, 0),
        (b"event: x\n\n", 0, 0),
        (b"event: ping\n\n", 0, 1),
        (b"event: ping\ndata: {}\n\n", 0, 1),
        (b"event: ping\nevent: x\ndata: {}\n\n", 1, 0),
        (b"event: ping\n\ndata: {}\n\n", 1, 1),
        (b" data: {}\n\n", 0, 0),
        (b"dat: {}\n\n", 0, 0),
        (b":\n\n", 0, 1),
        (b": a\n: b\n\n", 0, 2),
        (b"\n\n\r\n\r", 0, 0),
        (b"", 0, 0),
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_the_event_stream_grammar(
    data: bytes, chunks: int, keepalives: int, bytewise: bool
) -> None:
    """Line ends, fields, comments and byte order marks follow the WHATWG grammar."""
    feeds = [data[i : i + 1] for i in range(len(data))] if bytewise else [data]

    scanner = scan(CHAT, *feeds)

    assert (scanner.chunks, scanner.keepalives) == (chunks, keepalives)


def test_feed_and_end_say_how_many_chunks_they_completed() -> None:
    """A caller can time chunks by what each feed returns; end is idempotent."""
    scanner = SseScanner(CHAT)

    fed = [
        scanner.feed(data)
        for data in (b"data: {}", b"\n\n", chat_chunk(), chat_chunk() * 3, b": k\n\n")
    ]
    scanner.feed(b"data: {}\ndata: {}")
    ended = [scanner.end(), scanner.end()]

    assert fed == [0, 1, 1, 3, 0]
    assert ended == [1, 0]
    assert scanner.chunks == 6


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_type_that_aiohttp_writes_is_scanned(
    kind: type[bytes] | type[bytearray] | type[memoryview],
) -> None:
    """Bytes, bytearrays and memoryviews count alike, and are not kept."""
    scanner = SseScanner(CHAT)

    for part in (b"data: {}\n\n", b'data: {"error": "x"}', b"\n\n"):
        scanner.feed(kind(part))

    assert scanner.chunks == 1
    assert scanner.error == (None, None)


@pytest.mark.parametrize(
    "value",
    [b"7", b"-0", b"-1", b"1.0", b"1e2", b"1e400", b"NaN", b"true", b"null", b"01",
     b"9223372036854775807", b"9223372036854775808", b"1" + b"0" * 40, b'"7"', b"7 ",
     b'"\\ud800"', b'"\x01"', b'"\xff"', b'"\\x"', b"{}", b"[" * 3_000, b"7,", b"7}"],
)  # fmt: skip
def test_odd_json_says_what_the_standard_parser_makes_of_it(value: bytes) -> None:
    """The faster parser takes nothing that the other refuses, and nothing otherwise."""
    data = b'{"model": "m", "usage": {"prompt_tokens": 1, "prompt_tokens": %s}}' % value
    facts = ResponseFacts()
    with contextlib.suppress(ValueError, RecursionError):
        event = json.loads(data.decode("utf-8", "replace"))
        facts.add_event(event, STREAM_GRAMMARS[CHAT])

    scanner = scan(CHAT, b"data: " + data + b"\n\n")

    assert scanner.response == facts.attributes
    assert scanner.chunks == 1
