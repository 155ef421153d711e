"""Put the spans of a file together again: what happened in one rollout, in order."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from otel_intercept import semconv
from otel_intercept.record import AttributeValue
from otel_intercept.sdk import EventLine, SpanLine, read_spans


class ExchangeStory(NamedTuple):
    """One exchange as it was exported.

    Args:
        span: Its SERVER span.
        waits: The waits for the upstream below it, in order.
        failure: Its ``exception`` event, or None.
    """

    span: SpanLine
    waits: tuple[SpanLine, ...]
    failure: EventLine | None


class RolloutStory(NamedTuple):
    """One rollout as it was exported.

    Args:
        rollout_id: Its id.
        trace_id: Its trace, 32 hex digits.
        start_ns: When it opened, as far as the file tells.
        root: Its root span, or None if it was not exported (yet).
        exchanges: Its exchanges, by their start.
        late: Failures that no open exchange had, by their time.
        service_name: Who exported it, or None.
    """

    rollout_id: str
    trace_id: str
    start_ns: int
    root: SpanLine | None
    exchanges: tuple[ExchangeStory, ...]
    late: tuple[SpanLine, ...]
    service_name: str | None

    @property
    def outcome(self) -> str | None:
        """How it ended, or None as long as its root span is missing."""
        if self.root is None:
            return None
        return text_of(self.root.attributes, semconv.ROLLOUT_OUTCOME)

    @property
    def failures(self) -> tuple[EventLine, ...]:
        """Every failure in the order of time; the first one is the rollout's error."""
        events = [item.failure for item in self.exchanges if item.failure is not None]
        events += [event for event in map(failure_of, self.late) if event is not None]
        return tuple(sorted(events, key=lambda event: event.at_ns))


class Found(NamedTuple):
    """What a file has on one rollout id.

    Args:
        stories: The rollouts of this id, the last one started last.
        rollouts: How many rollouts the file has in all.
        some_ids: Ids of the file, at most ten, in the order of the file.
    """

    stories: tuple[RolloutStory, ...]
    rollouts: int
    some_ids: tuple[str, ...]


MAX_IDS = 10


def find(path: Path, rollout_id: str) -> Found:
    """Find the rollouts of one id in a file; the others are only counted.

    Raises:
        ConfigurationError: The file cannot be read, or is none of OTLP JSON lines.
    """
    known: dict[tuple[str, str], None] = {}
    wanted: list[SpanLine] = []
    for span in read_spans(path):
        owner = text_of(span.attributes, semconv.ROLLOUT_ID)
        if owner is None:
            continue
        known[owner, span.trace_id] = None
        if owner == rollout_id:
            wanted.append(span)
    ids = dict.fromkeys(owner for owner, _ in known)
    return Found(tell(wanted), len(known), tuple(ids)[:MAX_IDS])


def read_all(path: Path) -> tuple[RolloutStory, ...]:
    """Read every rollout of a file.

    Raises:
        ConfigurationError: The file cannot be read, or is none of OTLP JSON lines.
    """
    return tell(read_spans(path))


def tell(spans: Iterable[SpanLine]) -> tuple[RolloutStory, ...]:
    """Group spans into rollouts, by their start; foreign spans are left out."""
    groups: dict[tuple[str, str], list[SpanLine]] = {}
    for span in spans:
        owner = text_of(span.attributes, semconv.ROLLOUT_ID)
        if owner is not None:
            groups.setdefault((owner, span.trace_id), []).append(span)
    stories = [_tell(owner, group) for (owner, _), group in groups.items()]
    return tuple(sorted(stories, key=lambda story: story.start_ns))


def failure_of(span: SpanLine) -> EventLine | None:
    """Return the span's failure event, or None."""
    named = (item for item in span.events if item.name == semconv.EVENT_EXCEPTION)
    return next(named, None)


def text_of(attributes: Mapping[str, AttributeValue], key: str) -> str | None:
    """Return a text attribute, or None."""
    value = attributes.get(key)
    return value if isinstance(value, str) else None


def number_of(attributes: Mapping[str, AttributeValue], key: str) -> float | None:
    """Return a numeric attribute, or None."""
    value = attributes.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value


def _tell(rollout_id: str, spans: list[SpanLine]) -> RolloutStory:
    spans.sort(key=lambda span: span.start_ns)
    roots = [span for span in spans if span.name == semconv.SPAN_ROLLOUT]
    waits: dict[str, list[SpanLine]] = {}
    for span in spans:
        if semconv.GEN_AI_OPERATION_NAME in span.attributes and span.parent_span_id:
            waits.setdefault(span.parent_span_id, []).append(span)
    exchanges = [
        ExchangeStory(span, tuple(waits.get(span.span_id, ())), failure_of(span))
        for span in spans
        if semconv.EXCHANGE_OUTCOME in span.attributes
    ]
    return RolloutStory(
        rollout_id=rollout_id,
        trace_id=spans[0].trace_id,
        start_ns=spans[0].start_ns,
        root=roots[-1] if roots else None,
        exchanges=tuple(exchanges),
        late=tuple(span for span in spans if span.name == semconv.SPAN_FAILURE),
        service_name=spans[0].service_name,
    )
