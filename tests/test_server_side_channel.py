"""The side channel: tools, user, stop and model of a rollout's environment."""

import logging
from types import SimpleNamespace

import pytest

from otel_intercept import InterceptionError, RolloutRegistry
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import logged
from tests.served import MESSAGES, SECRET, call, running

TOOLS = [
    {"name": "add", "description": "adds", "parameters": {"type": "object"}},
    SimpleNamespace(name="now", description="", parameters={}, strict=True),
]


async def test_without_handlers_the_defaults_answer(registry: RolloutRegistry) -> None:
    """Item 39: tools and model are not found, user says nothing, stop says no."""
    async with running(registry) as server:
        server.register_rollout("r1")

        tool = await call(server, "vf/tools/add", {})
        tools = await call(server, "vf/tools", method="GET")
        user = await call(server, "vf/user", {})
        stop = await call(server, "vf/stop", {})
        model = await call(server, "vf/model", {"messages": []})

    assert (tool.status, tool.json()) == (404, {"error": "Tool proxy unavailable"})
    assert (tools.status, tools.json()) == (200, {"tools": []})
    assert (user.status, user.json()) == (200, {"messages": []})
    assert stop.json() == {"done": False, "stop_condition": None}
    assert (model.status, model.json()) == (404, {"error": "Model proxy unavailable"})


class Model:
    """A message as a pydantic model would dump it."""

    def model_dump(self, *, exclude_none: bool) -> dict[str, object]:
        """Give the fields."""
        assert exclude_none
        return {"role": "assistant", "parts": (1, [2])}


async def test_handlers_are_asked(registry: RolloutRegistry) -> None:
    """Handlers get what the agent sent, may be coroutines, and may return models."""
    asked: list[object] = []

    async def tool(name: str, arguments: object) -> object:
        asked.append((name, arguments))
        return [Model()]

    def user(transcript: list[object]) -> object:
        asked.append(transcript)
        return [{"role": "user", "content": "go on"}]

    async def stop() -> object:
        return {"done": True, "stop_condition": "solved"}

    def model(messages: list[object], tools: object) -> object:
        asked.append((messages, tools))
        return Model()

    async with running(registry) as server:
        server.register_rollout(
            "r1",
            tool_handler=tool,
            user_handler=user,
            stop_handler=stop,
            model_handler=model,
        )

        replies = [
            await call(server, "vf/tools/add", {"arguments": {"a": 1}}),
            await call(server, "vf/user", {"transcript": MESSAGES}),
            await call(server, "vf/stop"),
            await call(server, "vf/model", {"messages": MESSAGES, "tools": [1]}),
        ]

    dumped = {"role": "assistant", "parts": [1, [2]]}
    assert [reply.status for reply in replies] == [200] * 4
    assert [reply.json() for reply in replies] == [
        {"result": [dumped]},
        {"messages": [{"role": "user", "content": "go on"}]},
        {"done": True, "stop_condition": "solved"},
        {"message": dumped},
    ]
    assert asked == [("add", {"a": 1}), MESSAGES, (MESSAGES, [1])]


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("vf/tools/add", {"arguments": [1]}, "Tool arguments must be an object"),
        ("vf/user", {"transcript": "x"}, "Transcript must be a list"),
        ("vf/model", {}, "Model request messages must be a list"),
        ("vf/tools/add", [], "Request body must be a JSON object"),
        ("vf/user", "x", "Request body must be a JSON object"),
        ("vf/model", 1, "Request body must be a JSON object"),
        ("vf/model", None, "Invalid JSON"),
    ],
)
async def test_wrong_arguments_are_refused(
    registry: RolloutRegistry, path: str, body: object, sentence: str
) -> None:
    """Item 39: an argument of the wrong type gives 400, and no handler is asked."""

    def handler(*_: object) -> object:
        raise AssertionError

    async with running(registry) as server:
        server.register_rollout(
            "r1", tool_handler=handler, user_handler=handler, model_handler=handler
        )

        reply = await call(server, path, body)

    assert (reply.status, reply.json()) == (400, {"error": sentence})


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("vf/tools/add", "Tool call failed"),
        ("vf/user", "User call failed"),
        ("vf/stop", "Stop check failed"),
        ("vf/model", "Model call failed"),
    ],
)
@pytest.mark.parametrize("unserialisable", [False, True])
async def test_a_handler_that_fails_is_redacted(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    caplog: pytest.LogCaptureFixture,
    path: str,
    sentence: str,
    unserialisable: bool,
) -> None:
    """Item 39, done better: constant words; a failed model call fails the state."""
    caplog.set_level(logging.DEBUG)

    def handler(*_: object) -> object:
        if unserialisable:
            return {SECRET: object()}
        raise TimeoutError(SECRET)

    state: dict[str, object] = {}
    async with running(registry) as server:
        server.register_rollout(
            "r1",
            state,
            tool_handler=handler,
            user_handler=handler,
            stop_handler=handler,
            model_handler=handler,
        )

        reply = await call(server, path, {"messages": []})

    error_type = "handler_error" if unserialisable else "upstream_timeout"
    assert reply.status == 500
    assert reply.json() == {"error": sentence, "error_type": error_type}
    assert f"error_type={error_type}" in caplog.text
    assert SECRET not in logged(caplog)
    assert SECRET.encode() not in recorder.exported_bytes()
    if path == "vf/model":
        assert type(state["error"]) is InterceptionError
    else:
        assert state == {}


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (
            "openai_chat_completions",
            [
                {"type": "function", "function": TOOLS[0]},
                {"type": "function", "function": vars(TOOLS[1])},
            ],
        ),
        (
            "openai_responses",
            [
                {"type": "function", "name": "add", "description": "adds"}
                | {"parameters": {"type": "object"}},
                {"type": "function", "name": "now", "description": ""}
                | {"parameters": {}, "strict": True},
            ],
        ),
        (
            "anthropic_messages",
            [
                {"name": "add", "description": "adds"}
                | {"input_schema": {"type": "object"}},
                {"name": "now", "description": "", "input_schema": {}},
            ],
        ),
    ],
)
async def test_tools_are_listed_in_the_words_of_a_protocol(
    registry: RolloutRegistry, protocol: str, expected: object
) -> None:
    """An agent gets the tool definitions in its own dialect."""
    async with running(registry) as server:
        server.register_rollout("r1", tool_defs=TOOLS)

        reply = await call(server, f"vf/tools?protocol={protocol}", method="GET")

    assert (reply.status, reply.json()) == (200, {"tools": expected})


@pytest.mark.parametrize("query", ["", "?protocol=vf"])
async def test_tools_are_listed_as_they_are(
    registry: RolloutRegistry, query: str
) -> None:
    """Without a protocol the definitions pass unchanged."""
    async with running(registry) as server:
        server.register_rollout("r1", tool_defs=(TOOLS[0],))

        reply = await call(server, f"vf/tools{query}", method="GET")

    assert reply.json() == {"tools": [TOOLS[0]]}


async def test_an_unknown_protocol_is_refused(registry: RolloutRegistry) -> None:
    """A protocol that nobody speaks gives 400 and no echo."""
    async with running(registry) as server:
        server.register_rollout("r1", tool_defs=TOOLS)

        reply = await call(server, f"vf/tools?protocol={SECRET}", method="GET")
        unwritable = await call(server, "vf/tools", method="GET")

    assert (reply.status, reply.json()) == (400, {"error": "Unsupported tool protocol"})
    assert unwritable.status == 500


async def test_side_channel_calls_make_no_spans(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Only the model routes are exchanges."""
    async with running(registry) as server:
        server.register_rollout("r1")

        await call(server, "vf/user", {})

    assert {span.name for span in recorder.spans()} == {"rollout.started", "rollout"}
