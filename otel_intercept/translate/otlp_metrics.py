"""Encode metrics as OTLP straight to bytes, in small slices.

The official encoder makes several objects of each point and holds the interpreter lock
for all points in one go, so that a thousand of them make the event loop ten
milliseconds late. What comes out here decodes to the same messages.
"""

from collections.abc import Iterator, Mapping, Sequence
from struct import Struct, pack
from typing import Final

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_intercept.record import AttributeValue
from otel_intercept.translate.guard import safe_value
from otel_intercept.translate.naps import Naps
from otel_intercept.translate.protobuf import field, key_values, tag, text

_MAX_KNOWN: Final = 16384

_FIRST: Final = tag(1)
_SECOND: Final = tag(2)
_THIRD: Final = tag(3)
_GAUGE: Final = tag(5)
_SUM: Final = tag(7)
_HISTOGRAM: Final = tag(9)
_NUMBER_EXEMPLAR: Final = tag(5)
_NUMBER_ATTRIBUTE: Final = tag(7)
_BUCKET_COUNTS: Final = tag(6)
_BOUNDS: Final = tag(7)
_BUCKETS_EXEMPLAR: Final = tag(8)
_BUCKETS_ATTRIBUTE: Final = tag(9)

# Pairs of a tag and its value: start, time, value; start, time, count, sum, min, max.
_NUMBER: Final = {int: Struct("<BQBQBq"), float: Struct("<BQBQBd")}
_NUMBER_VALUE_TAG: Final = {int: 0x31, float: 0x21}
_BUCKETS: Final = Struct("<BQBQBQBdBdBd")
_EXEMPLAR: Final = {int: Struct("<BQBq"), float: Struct("<BQBd")}
_EXEMPLAR_VALUE_TAG: Final = {int: 0x31, float: 0x19}
_START, _TIME, _COUNT, _TOTAL, _MIN, _MAX = 0x11, 0x19, 0x21, 0x29, 0x59, 0x61
_SPAN_ID: Final = b"\x22\x08"
_TRACE_ID: Final = b"\x2a\x10"
_TEMPORALITY: Final = 0x10
_MONOTONIC: Final = b"\x18\x01"


class MetricEncoder:
    """Turns metrics that passed the export guard into bytes.

    Remembers the encoded form of attribute dicts by identity, so it is cheap where a
    series keeps its dict; a dict that was changed since is encoded anew.

    Used by one thread at a time.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], _Known] = {}
        self._bounds: tuple[Sequence[float], bytes] = ((), b"")

    def encode(self, data: MetricsData) -> bytes:
        """Return a serialised ``ExportMetricsServiceRequest``.

        Sleeps for a moment between slices, unless an event loop runs in this thread.

        Raises:
            UnicodeEncodeError: A text has a lone surrogate.
            TypeError: An exponential histogram, which none of ours is.
        """
        naps = Naps()
        return b"".join(
            field(_FIRST, self._resource(resource, naps))
            for resource in data.resource_metrics
        )

    def _resource(self, item: ResourceMetrics, naps: Naps) -> bytes:
        attributes = key_values(_FIRST, _plain(item.resource.attributes))
        scopes = (
            field(_SECOND, self._scope(scope, naps)) for scope in item.scope_metrics
        )
        return b"".join(
            (
                field(_FIRST, attributes),
                *scopes,
                text(_THIRD, item.resource.schema_url or ""),
            )
        )

    def _scope(self, item: ScopeMetrics, naps: Naps) -> bytes:
        metrics = (field(_SECOND, self._metric(each, naps)) for each in item.metrics)
        return b"".join(
            (
                field(_FIRST, _scope_name(item.scope)),
                *metrics,
                text(_THIRD, item.scope.schema_url or ""),
            )
        )

    def _metric(self, metric: Metric, naps: Naps) -> bytes:
        head = (
            text(_FIRST, metric.name)
            + text(_SECOND, metric.description or "")
            + text(_THIRD, metric.unit or "")
        )
        data = metric.data
        kind = b""
        match data:
            case Gauge():
                slot = _GAUGE
                points = self._numbers(data.data_points, naps, gauge=True)
            case Sum():
                slot = _SUM
                points = self._numbers(data.data_points, naps, gauge=False)
                kind = bytes((_TEMPORALITY, data.aggregation_temporality))
                kind += _MONOTONIC if data.is_monotonic else b""
            case Histogram():
                slot = _HISTOGRAM
                points = self._histograms(data.data_points, naps)
                kind = bytes((_TEMPORALITY, data.aggregation_temporality))
            case _:
                raise TypeError("a metric of a kind that is none of ours")
        encoded = b"".join(points)
        # As the official encoder has it, a metric without points is of no kind.
        return head + field(slot, encoded + kind) if encoded else head

    def _numbers(
        self, points: Sequence[NumberDataPoint], naps: Naps, *, gauge: bool
    ) -> Iterator[bytes]:
        for point in points:
            naps.step()
            value = point.value
            kind = float if isinstance(value, float) else int
            start_ns = 0 if gauge else point.start_time_unix_nano
            yield field(
                _FIRST,
                _NUMBER[kind].pack(
                    _START,
                    start_ns,
                    _TIME,
                    point.time_unix_nano,
                    _NUMBER_VALUE_TAG[kind],
                    value,
                )
                + self._attributes(_NUMBER_ATTRIBUTE, point.attributes or {})
                + _exemplars(_NUMBER_EXEMPLAR, point.exemplars),
            )

    def _histograms(
        self, points: Sequence[HistogramDataPoint], naps: Naps
    ) -> Iterator[bytes]:
        for point in points:
            naps.step()
            counts = point.bucket_counts
            yield field(
                _FIRST,
                _BUCKETS.pack(
                    _START,
                    point.start_time_unix_nano,
                    _TIME,
                    point.time_unix_nano,
                    _COUNT,
                    point.count,
                    _TOTAL,
                    point.sum,
                    _MIN,
                    point.min,
                    _MAX,
                    point.max,
                )
                + field(_BUCKET_COUNTS, pack(f"<{len(counts)}Q", *counts))
                + self._bounds_of(point.explicit_bounds)
                + self._attributes(_BUCKETS_ATTRIBUTE, point.attributes or {})
                + _exemplars(_BUCKETS_EXEMPLAR, point.exemplars),
            )

    def _bounds_of(self, bounds: Sequence[float]) -> bytes:
        # Points of one histogram come one after the other, and share them.
        if self._bounds[0] is not bounds:
            packed = pack(f"<{len(bounds)}d", *bounds)
            self._bounds = (tuple(bounds), field(_BOUNDS, packed))
        return self._bounds[1]

    def _attributes(self, attribute: bytes, attributes: Mapping[str, object]) -> bytes:
        key = (id(attributes), attribute)
        known = self._known.get(key)
        if (
            known is not None
            and known.attributes is attributes
            and known.content == attributes
        ):
            return known.encoded
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        encoded = key_values(attribute, _plain(attributes))
        self._known[key] = _Known(attributes, encoded)
        return encoded


class _Known:
    """An attribute dict as it was when it was encoded. Holding it keeps its id."""

    __slots__ = ("attributes", "content", "encoded")

    def __init__(self, attributes: Mapping[str, object], encoded: bytes) -> None:
        self.attributes = attributes
        self.content = dict(attributes)
        self.encoded = encoded


def _plain(attributes: Mapping[str, object]) -> Iterator[tuple[str, AttributeValue]]:
    # The guard has let nothing else through; this only tells the type checker so.
    for key, value in attributes.items():
        safe = safe_value(value)
        if safe is not None:
            yield key, safe


def _scope_name(scope: InstrumentationScope) -> bytes:
    return (
        text(_FIRST, scope.name)
        + text(_SECOND, scope.version or "")
        + key_values(_THIRD, _plain(scope.attributes or {}))
    )


def _exemplars(tag_: bytes, exemplars: Sequence[Exemplar]) -> bytes:
    if not exemplars:
        return b""
    return b"".join(field(tag_, _exemplar(exemplar)) for exemplar in exemplars)


def _exemplar(exemplar: Exemplar) -> bytes:
    kind = float if isinstance(exemplar.value, float) else int
    encoded = _EXEMPLAR[kind].pack(
        _START, exemplar.time_unix_nano, _EXEMPLAR_VALUE_TAG[kind], exemplar.value
    ) + key_values(_NUMBER_ATTRIBUTE, _plain(exemplar.filtered_attributes or {}))
    if exemplar.span_id is None or exemplar.trace_id is None:
        return encoded
    return (
        encoded
        + _SPAN_ID
        + exemplar.span_id.to_bytes(8)
        + _TRACE_ID
        + exemplar.trace_id.to_bytes(16)
    )
