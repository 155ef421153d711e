"""How answers of verifiers' legacy server leave: in one step, if nobody has a say."""

import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping

import pytest
import wrapt
from aiohttp import web

from otel_intercept.instrumentation.verifiers import VerifiersInstrumentor
from otel_intercept.testing import TelemetryRecorder
from tests.hosts.legacy_stage import Server, Stage, load, response
from tests.one_step import OneSteps
from tests.served import outcomes, until

# Their own /health handler is no coroutine function.
pytestmark = pytest.mark.filterwarnings("ignore:Bare functions:DeprecationWarning")

SERVER = load("utils.interception_utils")
ADDED = b"X-Added: late"


@pytest.fixture(autouse=True)
def _instrumented(recorder: TelemetryRecorder) -> Iterator[None]:
    instrumentor = VerifiersInstrumentor()
    instrumentor.instrument(telemetry=recorder.telemetry)
    yield
    instrumentor.uninstrument()


async def answer_of(make: Callable[..., Server]) -> tuple[bytes, int]:
    """Have a server answer once; return that, and how many left in one step."""
    stage = Stage(SERVER, make(0, secret="the-secret"))
    await stage.server.start()
    stage.register()
    reader = await (agent := stage.agent()).connect()
    intercept = await stage.intercept()
    with OneSteps() as steps:
        await stage.deliver(intercept, response())
        data = await reader.read()
    agent.leave()
    stage.server.unregister_rollout(stage.rollout_id)
    await stage.stop()
    return data, steps.sent


async def test_an_answer_leaves_in_one_step(recorder: TelemetryRecorder) -> None:
    """Their own server has nothing around its handler."""
    data, sent = await answer_of(SERVER.InterceptionServer)

    assert b"hello" in data
    assert sent == 1
    await until(lambda: outcomes(recorder) == ["ok"])


async def test_a_method_of_a_subclass_may_change_the_answer(
    recorder: TelemetryRecorder,
) -> None:
    """What it does to the response that its base returns reaches the agent."""

    async def handle(server: object, request: web.Request) -> web.StreamResponse:
        handled = SERVER.InterceptionServer._handle_request(server, request)  # noqa: SLF001 - as theirs may
        changed: web.StreamResponse = await handled
        changed.headers["X-Added"] = "late"
        return changed

    kind = type("Theirs", (SERVER.InterceptionServer,), {"_handle_request": handle})

    data, sent = await answer_of(kind)

    assert ADDED in data
    assert sent == 0
    await until(lambda: outcomes(recorder) == ["ok"])


async def test_who_wraps_the_handler_too_may_change_the_answer(
    recorder: TelemetryRecorder,
) -> None:
    """What others do around our wrapper reaches the agent."""

    def around(
        wrapped: Callable[..., object],
        _server: object,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> object:
        async def handle() -> object:
            handled = wrapped(*args, **kwargs)
            assert isinstance(handled, Awaitable)
            changed: object = await handled
            assert isinstance(changed, web.StreamResponse)
            changed.headers["X-Added"] = "late"
            return changed

        return handle()

    ours = vars(SERVER.InterceptionServer)["_handle_request"]
    theirs = wrapt.FunctionWrapper(ours, around)
    kind = type("Theirs", (SERVER.InterceptionServer,), {"_handle_request": theirs})

    data, sent = await answer_of(kind)

    assert ADDED in data
    assert sent == 0
    await until(lambda: outcomes(recorder) == ["ok"])


async def test_a_server_that_has_stopped_is_let_go() -> None:
    """What is known of its routes holds it no longer than they are served."""
    made: list[weakref.ref[object]] = []

    def make(port: int, secret: str) -> Server:
        server: Server = SERVER.InterceptionServer(port, secret=secret)
        made.append(weakref.ref(server))
        return server

    _, sent = await answer_of(make)
    gc.collect()

    assert sent == 1
    assert [each() for each in made] == [None]
