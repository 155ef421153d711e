"""A tool server: its spans join the rollout whose ``traceparent`` it is given."""

import os

from aiohttp import web
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


async def run(request: web.Request) -> web.Response:
    context = propagate.extract(request.headers)
    tracer = trace.get_tracer("tools")
    # By default the SDK exports the text of an exception, and that may hold anything.
    with tracer.start_as_current_span(
        "run tool", context, record_exception=False, set_status_on_exception=False
    ):
        return web.json_response({"result": 42})


if __name__ == "__main__":
    provider = TracerProvider(resource=Resource.create({"service.name": "tools"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    app = web.Application()
    app.router.add_post("/run", run)
    web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]))
    provider.shutdown()
