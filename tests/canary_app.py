"""The part of the canary program that stands for somebody's own aiohttp app."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from types import MappingProxyType
from typing import Final, NamedTuple

from aiohttp import web

from otel_intercept import Exchange, Phase, exchange_from, instrument_app
from tests.canary import Mint
from tests.canary_callers import CALLS, ROUTES, STREAMS, Target
from tests.canary_exceptions import HOSTILE, RAISES, hostile
from tests.canary_plan import How, Scenario
from tests.canary_stage import Stage

EXTRA_ROLLOUT: Final = "extra"
"""Open, but in no scenario: its handler fails."""

_CHUNK: Final = b'data: {"choices": [{"index": 0, "delta": {"content": "hi"}}]}\n\n'
_STREAM: Final = {"Content-Type": "text/event-stream"}
_SIGNAL: Final = "hostile_signal"
_LATE_S: Final = 0.02


class OwnApp:
    """An app that is observed as its owner would do it.

    Args:
        stage: Where it is played.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._scenarios = {
            rollout_id: scenario
            for rollout_id, scenario in stage.scenarios.items()
            if scenario.via == "app"
        }

    def app(self) -> web.Application:
        """Open the rollouts, and return the app."""
        for scenario in self._scenarios.values():
            self._stage.open(scenario)
        self._stage.keep(EXTRA_ROLLOUT)
        app = web.Application()
        for route in ROUTES.values():
            app.router.add_post(f"/rollout/{{rollout_id}}/v1/{route}", self.handle)
        app.router.add_post("/rollout/{rollout_id}/any/{tail:.+}", self.handle)
        app.router.add_get("/other", self.other)
        app.on_response_prepare.append(_send_signal)
        instrument_app(app, self._stage.registry, rollout_id=self._rollout_id)
        return app

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Do what the scenario says."""
        scenario = self._scenarios.get(request.match_info["rollout_id"])
        try:
            if scenario is None:
                return await _raise(self._stage.mint, "message")
            act = _Act(self._stage, request, exchange_from(request), scenario)
            self._stage.exchanges.append(act.exchange)
            return await _ACTS[scenario.how](act)
        except BaseException as exc:
            self._stage.note(exc)
            raise

    async def other(self, request: web.Request) -> web.StreamResponse:
        """Leak on a route that is none of ours, to show that leaks are seen."""
        if "raise" in request.query:
            raise RuntimeError(self._stage.mint("control.server_log"))
        canary = self._stage.mint("control.answer")
        return web.Response(status=500, text=canary, headers={"X-Control": canary})

    def _rollout_id(self, request: web.Request) -> str | None:
        if "resolver" in request.query:
            self._stage.reached.add("app.resolver")
            raise RuntimeError(self._stage.mint("app.resolver"))
        return request.match_info.get("rollout_id")


async def _send_signal(request: web.Request, response: web.StreamResponse) -> None:
    fail = request.pop(_SIGNAL, None)
    if callable(fail):
        fail()


class _Act(NamedTuple):
    """One scenario as it is played."""

    stage: Stage
    request: web.Request
    exchange: Exchange
    scenario: Scenario

    @property
    def mint(self) -> Mint:
        return self.stage.mint

    def raise_hostile(self) -> None:
        RAISES[self.scenario.what](self.mint)

    def failing_future(self, delay_s: float = 0.0) -> "asyncio.Future[object]":
        """Return a watched future that fails soon, and that nobody else may await."""
        error = hostile(self.scenario.what, self.mint)
        self.stage.note(error)
        loop = asyncio.get_running_loop()
        future = self.exchange.watch(loop.create_future())
        loop.call_later(delay_s, future.set_exception, error)
        return future

    async def target(self) -> Target:
        """Read the agent's request, and say where to go with it."""
        body = json.loads(await self.request.read())
        self.exchange.describe_request(body)
        prompt = body["messages"][0]["content"]
        return self.stage.target(self.scenario.what, prompt)

    async def begin(self) -> web.StreamResponse:
        response = web.StreamResponse(headers=_STREAM)
        await response.prepare(self.request)
        await response.write(_CHUNK)
        return response


async def _call(act: _Act) -> web.StreamResponse:
    target = await act.target()
    with act.exchange.upstream_call():
        answer = await CALLS[act.scenario.caller](target)
    return web.json_response(answer)


async def _stream(act: _Act) -> web.StreamResponse:
    target = await act.target()
    response = web.StreamResponse(headers=_STREAM)
    with act.exchange.upstream_call():
        async for data in STREAMS[act.scenario.caller](target):
            if not response.prepared:
                await response.prepare(act.request)
            await response.write(data)
    await response.prepare(act.request)
    await response.write_eof()
    return response


async def _before(act: _Act) -> web.StreamResponse:
    act.raise_hostile()
    raise AssertionError


async def _after(act: _Act) -> web.StreamResponse:
    await act.begin()
    act.raise_hostile()
    raise AssertionError


async def _future(act: _Act) -> web.StreamResponse:
    await act.failing_future()
    raise AssertionError


async def _swallow(act: _Act) -> web.StreamResponse:
    with contextlib.suppress(Exception):
        await act.failing_future()
    return web.json_response({})


async def _late(act: _Act) -> web.StreamResponse:
    act.stage.late.append(act.failing_future(_LATE_S))
    return web.json_response({"choices": []})


async def _report(act: _Act) -> web.StreamResponse:
    error = hostile(act.scenario.what, act.mint)
    act.stage.note(error)
    act.exchange.fail(error, phase=Phase.UPSTREAM_CALL)
    return web.json_response({})


async def _rollout_fail(act: _Act) -> web.StreamResponse:
    rollout = act.stage.registry.get(act.scenario.rollout_id)
    assert rollout is not None
    error = rollout.fail(hostile(act.scenario.what, act.mint), phase=Phase.HANDLER)
    return web.json_response({"error": f"{error} {error!r}"})


async def _body(act: _Act) -> web.StreamResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b'{"half": '
        act.raise_hostile()

    return web.Response(body=parts(), content_type="application/json")


async def _signal(act: _Act) -> web.StreamResponse:
    act.request[_SIGNAL] = act.raise_hostile
    return web.json_response({})


async def _block(act: _Act) -> web.StreamResponse:
    stage = act.stage
    state: dict[str, object] = {}
    stage.states.append(state)
    with contextlib.suppress(Exception):
        async with stage.registry.rollout(
            f"{act.scenario.rollout_id}-block", state=state
        ) as rollout:
            stage.rollouts.append(rollout)
            act.raise_hostile()
    return web.json_response({"choices": []})


async def _task(act: _Act) -> web.StreamResponse:
    """Fail in a task whose name is a secret, beside a future whose result is one."""
    mint = act.mint
    result = act.exchange.watch(asyncio.get_running_loop().create_future())
    result.set_result(mint("app.future_result"))
    act.stage.reached |= {"app.task_name", "app.future_result"}
    task = asyncio.create_task(_raise(mint, "message"), name=mint("app.task_name"))
    return await act.exchange.watch(task)


async def _stop(act: _Act) -> web.StreamResponse:
    """Fail after a clean stop whose reason is a secret."""
    rollout = act.stage.registry.get(act.scenario.rollout_id)
    assert rollout is not None
    rollout.stop(act.mint("app.stop_reason"))
    act.stage.reached.add("app.stop_reason")
    act.raise_hostile()
    raise AssertionError


async def _answer(act: _Act) -> web.StreamResponse:
    act.raise_hostile()
    raise AssertionError


async def _leave(act: _Act) -> web.StreamResponse:
    """Go on writing until the agent's departure shows."""
    response = await act.begin()
    while True:
        await response.write(_CHUNK)
        await asyncio.sleep(0.005)


async def _bad_json(act: _Act) -> web.StreamResponse:
    return web.json_response(await act.request.json())


async def _raise(mint: Mint, what: str) -> web.StreamResponse:
    HOSTILE[what](mint)
    raise AssertionError


_ACTS: Final = MappingProxyType[How, Callable[[_Act], Awaitable[web.StreamResponse]]](
    {
        "call": _call,
        "stream": _stream,
        "before": _before,
        "after": _after,
        "future": _future,
        "swallow": _swallow,
        "late": _late,
        "report": _report,
        "rollout_fail": _rollout_fail,
        "body": _body,
        "signal": _signal,
        "block": _block,
        "task": _task,
        "stop": _stop,
        "answer": _answer,
        "cancel": _answer,
        "leave": _leave,
        "bad_json": _bad_json,
    }
)
