"""The second host: a small aiohttp app of one's own, wired by `instrument_app`.

It passes answers on as they come, and checks nothing: what many hosts look like. It
knows nothing of telemetry but `exchange_from` and `upstream_call`.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
from aiohttp import web

from otel_intercept import RolloutRegistry, exchange_from, instrument_app
from otel_intercept.cli.demo.faults import FAULT_HEADER, Fault
from otel_intercept.cli.demo.loop import Watcher
from otel_intercept.cli.demo.plan import Planned

_ROUTE: Final = "/rollout/{rollout_id}/v1/{call:.+}"


@asynccontextmanager
async def own_app(
    registry: RolloutRegistry,
    upstream_url: str,
    plan: Mapping[str, Planned],
    secret: str,
    watcher: Watcher,
) -> AsyncIterator[web.Application]:
    """Make the app, and close its connections to the upstream at the end.

    Args:
        registry: Where the rollouts are open.
        upstream_url: Where the calls go.
        plan: What goes wrong, by rollout id.
        secret: Stands in the text of the handler's own error.
        watcher: Who wants to see progress.
    """
    async with aiohttp.ClientSession() as session:

        async def relay(request: web.Request) -> web.StreamResponse:
            exchange = exchange_from(request)
            body = await request.json()
            exchange.describe_request(body)
            planned = plan[exchange.rollout.rollout_id]
            watcher.turn(planned, exchange.index + 1)
            fault = planned.scenario.turns[exchange.index].fault
            if fault is Fault.HANDLER_BUG:
                raise KeyError(secret)
            url = f"{upstream_url}/v1/{request.match_info['call']}"
            headers = {FAULT_HEADER: fault}
            with exchange.upstream_call():
                async with session.post(url, json=body, headers=headers) as answer:
                    answer.raise_for_status()
                    return await _pass_on(request, answer)

        app = web.Application()
        app.router.add_post(_ROUTE, relay)
        instrument_app(app, registry)
        yield app


async def _pass_on(
    request: web.Request, answer: aiohttp.ClientResponse
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": answer.content_type})
    await response.prepare(request)
    async for data in answer.content.iter_any():
        await response.write(data)
    await response.write_eof()
    return response
