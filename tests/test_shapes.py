"""Answers in the shapes of the four dialects, judged by the SDKs' own models."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from otel_intercept.semconv import Dialect
from otel_intercept.server.completion import read_completion
from otel_intercept.server.json_values import jsonable
from otel_intercept.server.shapes import body_for, encoder_for
from tests.served import chat_body, chunk, events_of

DIALECTS = (
    Dialect.CHAT_COMPLETIONS,
    Dialect.COMPLETIONS,
    Dialect.RESPONSES,
    Dialect.MESSAGES,
)
MODELS: dict[Dialect, type[BaseModel]] = {
    Dialect.CHAT_COMPLETIONS: ChatCompletion,
    Dialect.COMPLETIONS: Completion,
    Dialect.RESPONSES: Response,
    Dialect.MESSAGES: Message,
}
ARGUMENTS = '{"a": 1}'


@dataclass
class Call:
    """A tool call of a neutral response."""

    id: str = "t1"
    name: str = "add"
    arguments: str = ARGUMENTS


@dataclass
class Said:
    """The message of a neutral response."""

    content: object = "hello"
    reasoning_content: str | None = "hm"
    thinking_blocks: list[object] | None = None
    tool_calls: list[Call] | None = field(default_factory=lambda: [Call()])
    finish_reason: str | None = "tool_calls"


@dataclass
class Neutral:
    """A response as a rollout library may make it, without model_dump."""

    id: str = "c1"
    created: int = 7
    model: str = "m"
    usage: object = field(
        default_factory=lambda: SimpleNamespace(
            prompt_tokens=3, completion_tokens=2, total_tokens=5, reasoning_tokens=1
        )
    )
    message: Said = field(default_factory=Said)


def sources() -> dict[str, object]:
    """Make the same answer in every shape that it can be delivered in."""
    bodies = {dialect: body_for(dialect, Neutral()) for dialect in DIALECTS}
    made: dict[str, object] = {"neutral": Neutral()}
    for dialect, body in bodies.items():
        made[f"{dialect} dict"] = body
        made[f"{dialect} object"] = MODELS[dialect].model_validate(body)
    return made


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", sources())
def test_every_source_gives_every_shape(kind: str, dialect: Dialect) -> None:
    """Whatever is delivered, the route's own SDK can validate what the agent gets."""
    body = body_for(dialect, sources()[kind])

    json.dumps(body)
    MODELS[dialect].model_validate(body, strict=False)
    again = read_completion(body)
    assert again is not None
    assert again.text == "hello"
    assert again.model == "m"
    assert again.completion_id == "c1"
    if dialect is not Dialect.COMPLETIONS and not kind.startswith("completions"):
        assert [(call.name, call.arguments) for call in again.tool_calls] == [
            ("add", ARGUMENTS)
        ]
        assert again.finish_reason == "tool_calls"
        assert again.reasoning == "hm"
    assert again.usage is not None
    assert (again.usage.input_tokens, again.usage.output_tokens) == (3, 2)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_body_in_the_own_shape_passes_unchanged(dialect: Dialect) -> None:
    """What is in the route's shape is not rewritten, unknown fields included."""
    body = {**body_for(dialect, Neutral()), "system_fingerprint": "fp", "x": [1]}

    assert body_for(dialect, body) == body
    model = MODELS[dialect].model_validate(body)
    assert body_for(dialect, model) == model.model_dump()


@pytest.mark.parametrize("dialect", [*DIALECTS, Dialect.OTHER])
def test_a_body_of_no_known_shape_passes_unchanged(dialect: Dialect) -> None:
    """Item 16: other mappings, and objects that can be dumped, reach the agent."""

    class Other(BaseModel):
        value: int = 1

    assert body_for(dialect, {"value": 1}) == {"value": 1}
    assert body_for(dialect, Other()) == {"value": 1}
    assert body_for(dialect, {"message": "text"}) == {"message": "text"}
    for unreadable in (object(), None, 3, "text", ["a"], Other):
        with pytest.raises(TypeError):
            body_for(dialect, unreadable)


@pytest.mark.parametrize(
    ("finish_reason", "stop_reason", "status"),
    [
        ("stop", "end_turn", "completed"),
        ("length", "max_tokens", "incomplete"),
        ("content_filter", "refusal", "incomplete"),
        ("something new", "end_turn", "completed"),
        (None, "end_turn", "completed"),
    ],
)
def test_finish_reasons_are_translated(
    finish_reason: str | None, stop_reason: str, status: str
) -> None:
    """Why an answer ended is said in the dialect's words, and read back from them."""
    said = Said(tool_calls=None, finish_reason=finish_reason)
    source = Neutral(message=said)

    message = body_for(Dialect.MESSAGES, source)
    response = body_for(Dialect.RESPONSES, source)

    assert message["stop_reason"] == stop_reason
    assert response["status"] == status
    if finish_reason in {"stop", "length", "content_filter"}:
        for body in (message, response):
            again = read_completion(body)
            assert again is not None
            assert again.finish_reason == finish_reason


def test_anthropic_blocks_keep_their_signature() -> None:
    """Thinking blocks that came as such pass unchanged, and beat plain reasoning."""
    block = {"type": "thinking", "thinking": "hm", "signature": "sig"}
    hidden = {"type": "redacted_thinking", "data": "x"}

    body = body_for(
        Dialect.MESSAGES, Neutral(message=Said(thinking_blocks=[block, hidden]))
    )

    content = body["content"]
    assert isinstance(content, list)
    assert content[:2] == [block, hidden]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ("", {}),
        ("{", {"arguments": "{"}),
        ("[1]", {"arguments": "[1]"}),
    ],
)
def test_arguments_become_an_object(arguments: str, expected: object) -> None:
    """Anthropic's tool input is an object, whatever the model wrote."""
    said = Said(content=None, tool_calls=[Call(arguments=arguments)])

    body = body_for(Dialect.MESSAGES, Neutral(message=said))

    content = body["content"]
    assert isinstance(content, list)
    assert content[-1]["input"] == expected
    assert [block["type"] for block in content] == ["thinking", "tool_use"]


@pytest.mark.parametrize(
    ("usage", "prompt", "cached"),
    [
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}, 9, 4),
        ({"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}}, 9, 4),
        ({"input_tokens": 5, "cache_read_input_tokens": 4}, 9, 4),
        ({"input_tokens": 5, "cache_creation_input_tokens": 4}, 9, None),
        ({"prompt_tokens": 9}, 9, None),
        ({"completion_tokens": 1}, 0, None),
        ({"prompt_tokens": True, "completion_tokens": "x"}, None, None),
        (None, None, None),
    ],
)
def test_cached_tokens_are_counted_once(
    usage: object, prompt: int | None, cached: int | None
) -> None:
    """OpenAI counts cached tokens as part of the input, Anthropic beside it."""
    completion = read_completion(chat_body(usage=usage))

    assert completion is not None
    if prompt is None:
        assert completion.usage is None
        return
    assert completion.usage is not None
    assert completion.usage.input_tokens == prompt
    assert completion.usage.cached_tokens == cached
    counts = body_for(Dialect.MESSAGES, chat_body(usage=usage))["usage"]
    assert isinstance(counts, dict)
    assert counts["input_tokens"] + counts.get("cache_read_input_tokens", 0) == prompt


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        *("choices", "message", "content", "text", "type", "output"),
                        *("tool_calls", "function", "arguments", "object", "usage"),
                        *("delta", "finish_reason", "prompt_tokens", "reasoning"),
                        *("id", "index"),
                    ]
                ),
                inner | st.sampled_from(["message", "response", "text_completion"]),
                max_size=6,
            )
        ),
        max_leaves=20,
    )
)
def test_garbage_of_the_right_kind_does_no_harm(value: object) -> None:
    """Any JSON object becomes a body and a stream of every dialect."""
    source = value if isinstance(value, dict) else {"choices": value}

    for dialect in DIALECTS:
        json.dumps(body_for(dialect, source))
        encoder = encoder_for(dialect, "m")
        encoder.encode(source)
        encoder.end()


def test_models_and_tuples_have_a_json_form() -> None:
    """What a handler returns is copied into plain JSON, and refused if it has none."""

    class Model(BaseModel):
        value: int = 1
        left_out: None = None

    assert jsonable({1: (Model(), [None, 1.5])}) == {"1": [{"value": 1}, [None, 1.5]]}
    for bad in (object(), {"x": {1}}, [b""], Model):
        with pytest.raises(TypeError):
            jsonable(bad)


def stream_of(
    dialect: Dialect, *chunks: Mapping[str, object], failed: bool = False
) -> list[tuple[str, dict[str, object]]]:
    """Encode a stream, and parse its events."""
    encoder = encoder_for(dialect, "asked")
    body = b"".join([*map(encoder.encode, chunks), encoder.end(failed=failed)])
    events = []
    for name, data in events_of(body):
        assert isinstance(data, dict)
        assert data["type"] == name
        events.append((name, data))
    return events


def tool_delta(index: int, arguments: str, call_id: str = "", name: str = "") -> object:
    """Make a chunk's piece of a tool call."""
    function = (
        {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    )
    return {"index": index, "id": call_id or None, "function": function}


def tool_chunk(*tools: object) -> dict[str, object]:
    """Make a chunk of pieces of tool calls."""
    return chunk() | {"choices": [{"index": 0, "delta": {"tool_calls": list(tools)}}]}


STREAM = (
    chunk(""),
    chunk() | {"choices": [{"index": 0, "delta": {"reasoning_content": "h"}}]},
    chunk() | {"choices": [{"index": 0, "delta": {"reasoning": "m"}}]},
    chunk("hel"),
    chunk("lo"),
    tool_chunk(tool_delta(0, "", "t1", "add")),
    tool_chunk(tool_delta(0, '{"a":')),
    tool_chunk(tool_delta(1, "{}", "t2", "now"), tool_delta(0, " 1}")),
    chunk(finish_reason="tool_calls"),
    chunk() | {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
)


def test_anthropic_events_are_valid_and_in_order() -> None:
    """Every event validates, blocks start and stop in turn, and nothing is lost."""
    events = stream_of(Dialect.MESSAGES, *STREAM)

    adapter: TypeAdapter[object] = TypeAdapter(RawMessageStreamEvent)
    for _, event in events:
        adapter.validate_python(event)
    names = [name.removeprefix("content_block_") for name, _ in events]
    assert names == [
        "message_start",
        *("start", "delta", "delta", "stop"),
        *("start", "delta", "delta", "stop"),
        *("start", "delta", "stop", "start", "delta", "delta", "stop"),
        *("message_delta", "message_stop"),
    ]
    pieces: dict[object, str] = {}
    for name, event in events:
        if name == "content_block_delta":
            delta = event["delta"]
            assert isinstance(delta, dict)
            _, text = list(delta.items())[1]
            pieces[event["index"]] = pieces.get(event["index"], "") + text
    assert pieces == {0: "hm", 1: "hello", 2: '{"a": 1}', 3: "{}"}
    last = events[-2][1]
    assert last["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert last["usage"] == {"input_tokens": 3, "output_tokens": 2}


def test_responses_events_are_valid_and_numbered() -> None:
    """Every event validates, numbers have no gap, and the last holds the response."""
    events = stream_of(Dialect.RESPONSES, *STREAM)

    adapter: TypeAdapter[object] = TypeAdapter(ResponseStreamEvent)
    for _, event in events:
        adapter.validate_python(event)
    assert [event["sequence_number"] for _, event in events] == list(range(len(events)))
    response = events[-1][1]["response"]
    assert isinstance(response, dict)
    Response.model_validate(response)
    assert [item["type"] for item in response["output"]] == [
        *("reasoning", "message", "function_call", "function_call")
    ]
    again = read_completion(response)
    assert again is not None
    assert (again.text, again.reasoning) == ("hello", "hm")
    calls = [(call.call_id, call.name, call.arguments) for call in again.tool_calls]
    assert calls == [("t1", "add", '{"a": 1}'), ("t2", "now", "{}")]
    done = [event for name, event in events if name == "response.output_item.done"]
    assert [event["item"] for event in sorted(done, key=place)] == response["output"]


def place(event: dict[str, object]) -> int:
    """Give the place of an item in the output."""
    index = event["output_index"]
    assert isinstance(index, int)
    return index


def test_text_around_tool_calls_keeps_its_order() -> None:
    """Text that comes back after a tool call opens an item of its own."""
    mixed = (chunk("a"), tool_chunk(tool_delta(0, "{}", "t", "f")), chunk("b"))

    messages = stream_of(Dialect.MESSAGES, *mixed)
    responses = stream_of(Dialect.RESPONSES, *mixed)

    starts = [event for name, event in messages if name == "content_block_start"]
    kinds = [event["content_block"] for event in starts]
    assert [kind["type"] for kind in kinds if isinstance(kind, dict)] == [
        *("text", "tool_use", "text")
    ]
    response = responses[-1][1]["response"]
    assert isinstance(response, dict)
    ids = [item["id"] for item in response["output"]]
    assert ids == ["msg_c1", "t", "msg_c1_1"]


@pytest.mark.parametrize(
    ("finish_reason", "event"),
    [
        ("stop", "response.completed"),
        ("length", "response.incomplete"),
        ("content_filter", "response.incomplete"),
        (None, "response.completed"),
    ],
)
def test_a_response_that_was_cut_short_is_incomplete(
    finish_reason: str | None, event: str
) -> None:
    """The terminal event says whether the model was done."""
    last, data = stream_of(
        Dialect.RESPONSES, chunk("x"), chunk(finish_reason=finish_reason)
    )[-1]

    response = data["response"]
    assert isinstance(response, dict)
    assert last == event
    assert f"response.{response['status']}" == event


@pytest.mark.parametrize("dialect", [Dialect.MESSAGES, Dialect.RESPONSES])
def test_native_events_pass_with_their_names(dialect: Dialect) -> None:
    """Events that have a type are the dialect's own, and only lack their end if so."""
    native = stream_of(dialect, *STREAM)
    cut = native[:-1]

    whole = stream_of(dialect, *(event for _, event in native))
    completed = stream_of(dialect, *(event for _, event in cut))

    assert whole == native
    assert completed[:-1] == cut
    assert completed[-1][0] == native[-1][0]
    if dialect is Dialect.RESPONSES:
        ended, expected = completed[-1][1], native[-1][1]
        assert ended["sequence_number"] == expected["sequence_number"]
        response, given_response = ended["response"], expected["response"]
        assert isinstance(response, dict)
        assert isinstance(given_response, dict)
        assert response["output"] == given_response["output"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_error_among_the_chunks_stays_an_error(dialect: Dialect) -> None:
    """An error frame of the upstream is one in every dialect."""
    encoder = encoder_for(dialect, "m")

    ((name, data),) = events_of(encoder.encode({"error": {"type": "x", "code": 5}}))

    assert isinstance(data, dict)
    assert data["error"] == {"type": "x", "code": 5}
    if dialect in {Dialect.MESSAGES, Dialect.RESPONSES}:
        assert name == data["type"] == "error"


def test_text_chunks_are_made_of_chat_chunks() -> None:
    """The completions route streams texts; its own chunks pass as they are."""
    encoder = encoder_for(Dialect.COMPLETIONS, "m")
    own = {"object": "text_completion", "choices": [{"text": "x", "index": 0}]}
    usage = {"prompt_tokens": 3}

    made = events_of(encoder.encode(chunk("a", "stop")))[0][1]
    last = events_of(encoder.encode({**chunk(), "choices": [], "usage": usage}))[0][1]

    assert events_of(encoder.encode(own))[0][1] == own
    assert isinstance(made, dict)
    assert isinstance(last, dict)
    Completion.model_validate(made)
    assert made["choices"][0]["text"] == "a"
    assert made["choices"][0]["finish_reason"] == "stop"
    assert (last["choices"], last["usage"]) == ([], usage)


def test_other_choices_are_left_out_of_translated_streams() -> None:
    """Dialects with one answer get the first choice."""
    second = {**chunk(), "choices": [{"index": 1, "delta": {"content": "other"}}]}

    events = stream_of(Dialect.MESSAGES, chunk("a"), second)

    assert "other" not in json.dumps(events)
