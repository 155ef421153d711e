"""The instrumentation scope of everything that we export."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_intercept import semconv


def _version() -> str | None:
    try:
        return version("otel-intercept")
    except PackageNotFoundError:
        return None


SCOPE: Final = InstrumentationScope(semconv.SCOPE_NAME, _version())
