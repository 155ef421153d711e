"""What the guard remembers of labels lets nothing through that it would not."""

import asyncio
import resource
import time

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_intercept import semconv
from otel_intercept.semconv import Instrument
from otel_intercept.translate.guard import Guard
from otel_intercept.translate.guard_metrics import MetricGuard, metrics_of
from otel_intercept.translate.naps import Naps

CANARY = "sk-canary-3fd9"


def data_of(
    instrument: Instrument, labels: dict[str, str | bool], *exemplars: Exemplar
) -> MetricsData:
    """Return one point of an instrument, with these very labels."""
    point = NumberDataPoint(labels, 1, 2, 3, exemplars)
    sum_ = Sum([point], AggregationTemporality.CUMULATIVE, is_monotonic=True)
    metric = Metric(instrument.name, instrument.description, instrument.unit, sum_)
    scope = ScopeMetrics(InstrumentationScope("s"), [metric], "")
    return MetricsData([ResourceMetrics(Resource({}), [scope], "")])


def leaves(guard: MetricGuard, data: MetricsData) -> bool:
    """Tell whether the canary is in what the guard lets out."""
    safe, _ = guard.data(data)
    return CANARY.encode() in encode_metrics(safe).SerializeToString()


def test_labels_that_passed_do_not_pass_when_they_were_changed() -> None:
    """A dict that was looked at is looked at again when its content is another."""
    guard = MetricGuard(Guard())
    labels: dict[str, str | bool] = {semconv.ROLLOUT_OUTCOME: "failed"}
    for _ in range(2):
        assert guard.data(data_of(semconv.ROLLOUTS, labels))[1] == 1

    labels["path"] = CANARY

    assert not leaves(guard, data_of(semconv.ROLLOUTS, labels))


def test_labels_of_one_instrument_are_no_pass_for_another() -> None:
    """What may stand on one instrument may not stand on each."""
    guard = MetricGuard(Guard())
    labels: dict[str, str | bool] = {semconv.GEN_AI_REQUEST_MODEL: CANARY}
    assert leaves(guard, data_of(semconv.EXCHANGE_DURATION, labels))

    assert not leaves(guard, data_of(semconv.ROLLOUTS, labels))


def test_new_labels_at_an_old_address_are_looked_at() -> None:
    """A dict is known by being the same one, not by where it lies."""
    guard = MetricGuard(Guard())

    for _ in range(500):
        good: dict[str, str | bool] = {semconv.ROLLOUT_OUTCOME: "ok"}
        assert guard.data(data_of(semconv.ROLLOUTS, good))[1] == 1
        del good
        assert not leaves(guard, data_of(semconv.ROLLOUTS, {"path": CANARY}))


def test_known_labels_are_no_pass_for_the_attributes_of_an_exemplar() -> None:
    """What a view dropped from the labels comes back there, and goes no further."""
    guard = MetricGuard(Guard())
    labels: dict[str, str | bool] = {semconv.ROLLOUT_OUTCOME: "failed"}
    guard.data(data_of(semconv.ROLLOUTS, labels))
    exemplar = Exemplar({"path": CANARY}, 1, 2, 3, 4)

    data = data_of(semconv.ROLLOUTS, labels, exemplar)

    assert not leaves(guard, data)
    (metric,) = metrics_of(guard.data(data)[0])
    (point,) = metric.data.data_points
    assert point.exemplars[0].trace_id == 4


def test_a_step_that_would_end_too_late_is_not_begun_without_a_nap() -> None:
    """Of two steps that take more than a millisecond together, each has its nap."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    naps = Naps()

    for _ in range(20):
        until_s = time.thread_time() + 0.0006
        while time.thread_time() < until_s:
            pass
        naps.step()

    assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before >= 20


async def test_no_nap_is_taken_on_an_event_loop() -> None:
    """Who serves metrics from the loop itself is not kept waiting on purpose."""

    def naps_in_some_work() -> int:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        naps, until_s = Naps(), time.thread_time() + 0.02
        while time.thread_time() < until_s:
            naps.step()
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before

    on_the_loop = naps_in_some_work()
    beside_it = await asyncio.to_thread(naps_in_some_work)

    # Of its own accord, about once in each of the 20 ms.
    assert beside_it >= 10
    assert on_the_loop < 5
