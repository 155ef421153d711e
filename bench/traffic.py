"""Rollouts and exchanges without HTTP: what the library does for each, and no more."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bench.scenes import ROUTE, SCENES
from otel_intercept import Rollout, Telemetry
from otel_intercept.record import Request
from otel_intercept.sdk import configure
from otel_intercept.semconv import Dialect

_REQUEST: Final = Request("POST", ROUTE, "http", Dialect.CHAT_COMPLETIONS)
_ASKED: Final[dict[str, object]] = json.loads(SCENES["json2k"].body())
_ANSWER: Final = json.dumps(
    {
        "id": "chatcmpl-1",
        "model": "ok",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "x"}}],
        "usage": {"prompt_tokens": 500, "completion_tokens": 450},
    }
).encode()


@contextmanager
def telemetry(recorder: str, sink: str, **environ: str) -> Iterator[Telemetry]:
    """Give telemetry as an operator would set it up.

    Args:
        recorder: ``off``, ``thread`` or ``process``.
        sink: Where it is exported to, over OTLP/HTTP.
        environ: More variables.
    """
    off = recorder == "off"
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        **({"OTEL_SDK_DISABLED": "true"} if off else {}),
        **({"OTEL_INTERCEPT_RECORDER": "process"} if recorder == "process" else {}),
    }
    with configure(variables | environ, service_name="bench") as made:
        yield made


def exchange(rollout: Rollout) -> None:
    """Let one model call of a rollout go well, from request to answer."""
    one = rollout.start_exchange(_REQUEST, agent_present=_is_there)
    one.describe_request(_ASKED)
    with one.upstream_call():
        pass
    one.answer_began(200, event_stream=False)
    one.answer_wrote(_ANSWER)
    one.answer_ended()
    one.handler_returned()


def _is_there(_connection: object) -> bool:
    return True
