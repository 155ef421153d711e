"""A program with plain OpenTelemetry and a secret in every place: no otel_intercept.

Run as a program: ``python foreign.py ENDPOINT SERVICE SECRET``. It sends spans and
metrics by HTTP, and says whether logs were taken, too.
"""

import sys

import requests
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
)

ALLOWED_KEYS = (
    "http.request.method",
    "http.response.status_code",
    "http.route",
    "url.path",
    "url.scheme",
    "error.type",
    "exception.type",
    "gen_ai.request.model",
    "gen_ai.conversation.id",
    "intercept.rollout.id",
    "intercept.failure.fingerprint",
    "intercept.failure.cause_types",
)
OTHER_KEYS = (
    "url.query",
    "url.full",
    "http.request.header.authorization",
    "exception.message",
    "db.query.text",
    "user_agent.original",
)


def main(endpoint: str, service: str, secret: str) -> None:
    """Send everything, and flush."""
    resource = Resource(
        {
            "service.name": service,
            "process.command_line": f"--key={secret}",
            f"env.{secret}": "x",
        },
        schema_url=f"https://example.invalid/{secret}",
    )
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(
        SimpleSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces"))
    )
    theirs = tracers.get_tracer(
        f"lib-{secret}",
        f"1-{secret}",
        f"https://example.invalid/{secret}",
        {"scope.note": secret},
    )
    keys = (*ALLOWED_KEYS, *OTHER_KEYS)
    send_span(theirs, secret, f"GET /v1?key={secret}", keys)
    send_span(theirs, secret, f"GET /v1?key={secret}", keys, linked=True)
    # Somebody may take our name: then names and allowed keys are as we would fill them.
    ours = tracers.get_tracer("otel_intercept")
    send_span(ours, secret, "rollout", OTHER_KEYS)
    # A model name that an agent made up from a key.
    send_span(ours, f"sk-{secret}", f"chat sk-{secret}", ("gen_ai.request.model",))
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(endpoint=f"{endpoint}/v1/metrics")
    )
    views = [View(instrument_name="intercept.failures", attribute_keys={"error.type"})]
    meters = MeterProvider([reader], resource=resource, views=views)
    with tracers.get_tracer("around").start_as_current_span("GET"):
        send_metrics(meters.get_meter(f"lib-{secret}"), secret)
        send_metrics(meters.get_meter("otel_intercept"), secret)
    meters.shutdown()
    tracers.shutdown()
    sys.stdout.write(f"logs {send_log(endpoint, secret)}\n")


def send_span(
    tracer: Tracer,
    secret: str,
    name: str,
    keys: tuple[str, ...],
    *,
    linked: bool = False,
) -> None:
    """Send a span that has the secret in every slot, and its child."""
    state = TraceState([("v", secret)])
    outside = SpanContext(1 << 100, 1 << 50, True, TraceFlags(1), state)
    links = [Link(outside, {"link.note": secret})] if linked else []
    with tracer.start_as_current_span(
        name,
        context=trace.set_span_in_context(trace.NonRecordingSpan(outside)),
        kind=SpanKind.SERVER,
        attributes={key: f"{key} {secret}" for key in keys} | {secret: 1},
        links=links,
        record_exception=False,
    ) as span:
        span.set_attribute("http.request.header.cookie", [secret, secret])
        span.set_status(Status(StatusCode.ERROR, f"failed with {secret}"))
        span.record_exception(ValueError(f"key {secret}"))
        span.add_event(f"event {secret}", {"note": secret, "error.type": secret})
        answered = {"http.response.status_code": 500}
        tracer.start_span("GET", attributes=answered).end()


def send_metrics(meter: Meter, secret: str) -> None:
    """Send metrics that have the secret in name, unit, text, labels and exemplars."""
    name = "m" + "".join(filter(str.isalnum, secret))
    meter.create_counter(name, secret[:60], f"about {secret}").add(1, {"k": secret})
    labels = {"error.type": "upstream_timeout", "note": secret}
    meter.create_counter("intercept.failures").add(1, labels)
    meter.create_histogram("intercept.exchange.duration", "s").record(
        1.0, {secret: "x", "gen_ai.request.model": f"sk-{secret}"}
    )


def send_log(endpoint: str, secret: str) -> int:
    """Return the status with which a log record is answered."""
    body = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": secret}]}]}]}
    return requests.post(f"{endpoint}/v1/logs", json=body, timeout=10).status_code


if __name__ == "__main__":
    main(*sys.argv[1:])
