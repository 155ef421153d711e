"""Ask a sampler whether a rollout has spans."""

from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.trace import INVALID_SPAN, SpanKind, set_span_in_context

from otel_intercept import semconv

# A rollout is a root, whatever span of the application is active where it is opened.
_NO_PARENT: Final = set_span_in_context(INVALID_SPAN, Context())


def is_sampled(sampler: Sampler | None, trace_id: int) -> bool:
    """Decide whether a rollout has spans; yes without a sampler, or if it raises."""
    if sampler is None:
        return True
    try:
        result = sampler.should_sample(
            _NO_PARENT, trace_id, semconv.SPAN_ROLLOUT, SpanKind.INTERNAL
        )
    except Exception:  # noqa: BLE001 - telemetry is not lost to foreign code
        return True
    return result.decision is Decision.RECORD_AND_SAMPLE
