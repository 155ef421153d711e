"""What operators may ask for, and what becomes of servers that were there before."""

import asyncio
import contextlib
import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import openai
import pytest

from otel_intercept.instrumentation.verifiers import VerifiersInstrumentor
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import Serve, logged
from tests.hosts.legacy_loop import Loop, Upstream
from tests.hosts.legacy_scenes import (
    SCENES,
    Scene,
    json_model_error,
    json_ok,
    json_timeout,
    side_channel_fails,
    stream_agent_gone,
    stream_agent_gone_then_fails,
    stream_timeout,
)
from tests.hosts.legacy_stage import SECRET, Stage, load, response
from tests.served import attribute, outcomes

pytestmark = pytest.mark.filterwarnings(
    # Theirs, and those of what they use.
    "ignore::DeprecationWarning",
)

SERVER = load("utils.interception_utils")
ERRORS = load("errors")
METHODS = (
    "__init__",
    "start",
    "stop",
    "register_rollout",
    "unregister_rollout",
    "_handle_request",
    "_handle_user_request",
    "_set_rollout_error",
)


@contextmanager
def instrumented(
    recorder: TelemetryRecorder,
    *,
    redact_state: bool = False,
    redact_responses: bool = False,
) -> Iterator[VerifiersInstrumentor]:
    """Instrument verifiers for the length of a block."""
    instrumentor = VerifiersInstrumentor()
    instrumentor.instrument(
        telemetry=recorder.telemetry,
        redact_state=redact_state,
        redact_responses=redact_responses,
    )
    try:
        yield instrumentor
    finally:
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()


async def make_stage() -> Stage:
    """Start a server, and register a rollout."""
    server = SERVER.InterceptionServer(0, secret="the-secret")
    await server.start()
    stage = Stage(SERVER, server)
    stage.register()
    return stage


async def play(scene: Scene) -> Stage:
    """Play a scene to its end."""
    stage = await make_stage()
    try:
        await scene(stage)
    finally:
        stage.server.unregister_rollout(stage.rollout_id)
        await stage.stop()
    return stage


def fail_as_the_loop_does() -> None:
    """Raise an error with a chain and a traceback."""
    raise ERRORS.ModelError(SECRET) from RuntimeError(SECRET)


def all_texts(error: object) -> str:
    """Return every text that hangs on an error, whatever for."""
    assert isinstance(error, BaseException)
    chain = [error, error.__cause__, error.__context__, error.__traceback__]
    return " ".join(f"{link!r} {link}" for link in chain if link is not None)


@pytest.mark.parametrize("redact", [False, True])
@pytest.mark.parametrize(
    ("scene", "kind"),
    [
        (json_timeout, SERVER.InterceptionError),
        (json_model_error, SERVER.InterceptionError),
        (stream_timeout, SERVER.StreamInterrupted),
        (stream_agent_gone, SERVER.StreamInterrupted),
    ],
    ids=lambda given: given.__name__,
)
async def test_state_keeps_the_class_and_loses_the_text_on_demand(
    recorder: TelemetryRecorder,
    monkeypatch: pytest.MonkeyPatch,
    scene: Scene,
    kind: type[Exception],
    redact: bool,
) -> None:
    """With redact_state the text is ours, and the class that retry rules know stays."""
    monkeypatch.setattr(SERVER, "KEEPALIVE_INTERVAL_SECONDS", 0.05)

    with instrumented(recorder, redact_state=redact):
        stage = await play(scene)

    error = stage.state["error"]
    assert type(error) is kind
    expected = SCENES[scene].error_type
    if redact:
        assert str(error) == f"{expected} (trace {stage.state['trajectory_id']})"
        assert SECRET not in all_texts(error)
    elif scene not in {json_model_error, stream_agent_gone}:
        assert SECRET in all_texts(error)


async def test_an_error_of_the_loop_is_redacted_with_its_chain(
    recorder: TelemetryRecorder,
) -> None:
    """At unregister at the latest, nothing raw hangs on the state's error."""
    with instrumented(recorder, redact_state=True):
        stage = await make_stage()
        with pytest.raises(ERRORS.ModelError) as raised:
            fail_as_the_loop_does()
        stage.state["error"] = raised.value
        stage.server.unregister_rollout(stage.rollout_id)
        await stage.stop()

    assert type(stage.state["error"]) is ERRORS.ModelError
    assert SECRET not in all_texts(stage.state["error"])


@pytest.mark.parametrize("redact", [False, True])
async def test_results_of_the_loop_are_redacted_on_demand(
    recorder: TelemetryRecorder, serve: Serve, redact: bool
) -> None:
    """What verifiers writes to its results has its class, and raw text by default."""
    url = await serve(Upstream(("500",)).app())

    with instrumented(recorder, redact_state=redact):
        output = await Loop(url).run()

    assert "ModelError" in str(output["error"])
    assert (SECRET in str(output)) is not redact
    assert ("upstream_server_error" in str(output["error"])) is redact


@pytest.mark.parametrize("redact", [False, True])
@pytest.mark.parametrize("scene", [json_timeout, side_channel_fails])
async def test_bodies_are_redacted_on_demand(
    recorder: TelemetryRecorder, scene: Scene, redact: bool
) -> None:
    """With redact_responses the agent gets our error body, and the same status."""
    with instrumented(recorder, redact_responses=redact):
        stage = await play(scene)

    (answer,) = stage.seen
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert (SECRET.encode() in answer) is not redact
    if redact:
        assert str(stage.state["trajectory_id"]).encode() in answer
    assert (b"The model call timed out." in answer) is (
        redact and scene is json_timeout
    )


async def test_openai_sdk_tries_three_times(recorder: TelemetryRecorder) -> None:
    """One logical failure of the SDK is three exchanges that say which try each is."""
    with instrumented(recorder):
        stage = await make_stage()
        base = f"http://127.0.0.1:{stage.server.port}/rollout/{stage.rollout_id}/v1"

        async def loop() -> None:
            for _ in range(3):
                await stage.deliver(await stage.intercept(), error=TimeoutError(SECRET))

        answering = asyncio.create_task(loop())
        async with openai.AsyncOpenAI(base_url=base, api_key="the-secret") as sdk:
            with pytest.raises(openai.InternalServerError):
                await sdk.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "go"}]
                )
        await answering
        stage.server.unregister_rollout(stage.rollout_id)
        await stage.stop()

    spans = [span for span in recorder.spans() if span.name.startswith("POST")]
    assert [attribute(s, "intercept.exchange.retry_count") for s in spans] == [0, 1, 2]
    assert outcomes(recorder) == ["upstream_failed"] * 3


async def test_openai_sdk_streams(recorder: TelemetryRecorder) -> None:
    """The SDK reads a good stream; model, usage and finish reason are on its span."""
    with instrumented(recorder):
        stage = await make_stage()
        base = f"http://127.0.0.1:{stage.server.port}/rollout/{stage.rollout_id}/v1"

        async def loop() -> None:
            await stage.deliver(await stage.intercept(), response("hello"))

        answering = asyncio.create_task(loop())
        async with openai.AsyncOpenAI(base_url=base, api_key="the-secret") as sdk:
            chunks = await sdk.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "go"}], stream=True
            )
            text = "".join([c.choices[0].delta.content or "" async for c in chunks])
        await answering
        stage.server.unregister_rollout(stage.rollout_id)
        await stage.stop()

    (chat,) = (span for span in recorder.spans() if span.name == "chat m")
    assert text == "hello"
    assert attribute(chat, "gen_ai.response.model") == "real-model"
    assert attribute(chat, "gen_ai.usage.input_tokens") == 10
    assert attribute(chat, "gen_ai.usage.output_tokens") == 5
    assert attribute(chat, "gen_ai.response.finish_reasons") == ("stop",)


async def test_rollout_ids_are_unique_to_a_server(recorder: TelemetryRecorder) -> None:
    """Two servers may have a rollout of one id: two traces, each with its exchange."""
    with instrumented(recorder) as instrumentor:
        first, second = await make_stage(), await make_stage()
        second.state["trajectory_id"] = "not a trace id"
        rollouts = [
            instrumentor.rollout_of(stage.server, stage.rollout_id)
            for stage in (first, second)
        ]
        for stage, scene in ((first, json_ok), (second, json_timeout)):
            await scene(stage)
            stage.server.unregister_rollout(stage.rollout_id)
            await stage.stop()

    assert [rollout and rollout.exchanges for rollout in rollouts] == [1, 1]
    assert [rollout and rollout.outcome for rollout in rollouts] == [
        "completed",
        "failed",
    ]
    traces = {span.context.trace_id for span in recorder.spans()}
    # The second one's state names the same trajectory, which is in use.
    assert len(traces) == 2


async def test_a_rollout_that_is_registered_again_starts_anew(
    recorder: TelemetryRecorder,
) -> None:
    """Their server replaces the former rollout of an id; we end it first."""
    with instrumented(recorder):
        stage = await make_stage()
        stage.state = {"trajectory_id": "a" * 32}
        stage.register()
        await json_ok(stage)
        stage.server.unregister_rollout(stage.rollout_id)
        await stage.stop()

    roots = [span for span in recorder.spans() if span.name == "rollout"]
    assert [attribute(root, "intercept.rollout.exchanges") for root in roots] == [0, 1]
    assert roots[1].context.trace_id == int("a" * 32, 16)


async def test_a_server_that_was_started_before_is_seen_in_part(
    recorder: TelemetryRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Its rollouts and failures are seen, and one line says that no more is."""
    server = SERVER.InterceptionServer(0, secret="the-secret")
    await server.start()
    stage = Stage(SERVER, server)

    with caplog.at_level(logging.WARNING), instrumented(recorder):
        for scene in (json_timeout, stream_timeout):
            stage.register()
            await scene(stage)
            server.unregister_rollout(stage.rollout_id)
    await stage.stop()

    names = [span.name for span in recorder.spans()]
    assert names.count("rollout") == names.count("failure") == 2
    assert recorder.value("intercept.failures") == 2
    told = [one for one in caplog.messages if "before it was instrumented" in one]
    assert len(told) == 1
    assert SECRET.encode() not in recorder.exported_bytes()


async def test_uninstrument_restores_all(recorder: TelemetryRecorder) -> None:
    """The class has its own methods again; what was made meanwhile goes on, unseen."""
    kind = SERVER.InterceptionServer
    before = {name: vars(kind)[name] for name in METHODS}
    with instrumented(recorder, redact_state=True, redact_responses=True):
        changed = [name for name in METHODS if vars(kind)[name] is not before[name]]
        stage = await make_stage()
    spans = len(recorder.spans())

    await json_timeout(stage)
    stage.server.unregister_rollout(stage.rollout_id)
    await stage.stop()

    assert changed == list(METHODS)
    assert {name: vars(kind)[name] for name in METHODS} == before
    assert SECRET.encode() in stage.seen[0]
    (root,) = (span for span in recorder.spans() if span.name == "rollout")
    assert attribute(root, "intercept.rollout.outcome") == "aborted"
    assert len(recorder.spans()) == spans


@pytest.mark.parametrize("observed", [False, True])
async def test_a_future_that_nobody_awaits_is_no_longer_printed(
    recorder: TelemetryRecorder,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    observed: bool,
) -> None:
    """Since we retrieve each failure, asyncio has no reason to print its text."""
    monkeypatch.setattr(SERVER, "KEEPALIVE_INTERVAL_SECONDS", 0.05)

    with instrumented(recorder) if observed else contextlib.nullcontext():
        await play(stream_agent_gone_then_fails)
        gc.collect()

    assert (SECRET in logged(caplog)) is not observed
