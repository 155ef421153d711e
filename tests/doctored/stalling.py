"""Apps that see everything, beside a doctor whose process stands still for a while."""

import os
import signal
import threading
import time
from collections.abc import Callable, Container

from aiohttp import web
from aiohttp.typedefs import Handler

from otel_intercept import RolloutRegistry, instrument_app
from tests.doctored.calling import TIMEOUT, session_of
from tests.doctored.good import ROUTE, UPSTREAM, relay

EVERY = ("none", "agent_leaves")
# Beyond what the app waits for its upstream.
STALL_S = (TIMEOUT.total or 0.0) + 0.3

Factory = Callable[[RolloutRegistry, str], web.Application]


def stop_doctor() -> None:
    """Have the process that examines this one stand still."""
    doctor = os.getppid()
    os.kill(doctor, signal.SIGSTOP)
    time.sleep(STALL_S)
    os.kill(doctor, signal.SIGCONT)


def stopping(delay_s: float, faults: Container[str], *, always: bool) -> Handler:
    """Return a handler that stops doctor a while after it was asked."""
    stopped = set()

    async def handle(request: web.Request) -> web.StreamResponse:
        fault = (await request.json())["model"].removeprefix("scripted-fault-")
        if fault in faults and fault not in stopped:
            if not always:
                stopped.add(fault)
            threading.Timer(delay_s, stop_doctor).start()
        return await relay(request)

    return handle


def made(handler: Handler) -> Factory:
    """Return a factory of the good app with another handler."""

    def make(registry: RolloutRegistry, upstream_url: str) -> web.Application:
        app = web.Application()
        app[UPSTREAM] = f"{upstream_url}/v1/chat/completions"
        app.cleanup_ctx.append(session_of)
        app.router.add_post(ROUTE, handler)
        instrument_app(app, registry)
        return app

    return make


at_once = made(stopping(0.0, EVERY, always=False))
soon = made(stopping(0.1, EVERY, always=False))
later = made(stopping(0.3, EVERY, always=False))
always = made(stopping(0.0, ("none",), always=True))
