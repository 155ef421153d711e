"""The spans of records as the SDK's spans, unguarded, to look at in tests."""

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_intercept.record import Record
from otel_intercept.translate.readable import readable_span
from otel_intercept.translate.span import LightSpans
from otel_intercept.translate.spans import SpanFactory


class ReadableSpans:
    """Makes the SDK's spans of records.

    Args:
        resource: Who they are from.
        scope: Which library made them.
    """

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._factory = SpanFactory(LightSpans())
        self._resource = resource
        self._scope = scope

    def spans_of(self, record: Record) -> list[ReadableSpan]:
        """Return the record's spans."""
        return [
            readable_span(span, self._resource, self._scope)
            for span in self._factory.spans_of(record)
        ]
