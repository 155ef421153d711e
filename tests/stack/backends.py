"""What the engines say through their own APIs, typed."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypedDict, TypeVar
from urllib.parse import quote

import requests

from deploy.stack.engine import get

T = TypeVar("T")

Tags = Mapping[str, object]


class Span(NamedTuple):
    """A span as Jaeger shows it.

    Args:
        trace_id: Its trace.
        span_id: Its id.
        parent_id: The id of its parent, or None for a root.
        name: Its name.
        tags: Its attributes, and what Jaeger adds.
        events: The attributes of its events.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    tags: Tags
    events: Sequence[Tags]


class _KeyValue(TypedDict):
    key: str
    value: object


class _Log(TypedDict):
    fields: list[_KeyValue]


class _Reference(TypedDict):
    refType: str
    spanID: str


class _Span(TypedDict):
    traceID: str
    spanID: str
    operationName: str
    references: list[_Reference]
    tags: list[_KeyValue]
    logs: list[_Log]


class _Trace(TypedDict):
    spans: list[_Span]


class _Sample(TypedDict):
    metric: dict[str, str]
    value: tuple[float, str]


class _Exemplar(TypedDict):
    labels: dict[str, str]


class _ExemplarSeries(TypedDict):
    exemplars: list[_Exemplar]


class Jaeger:
    """Jaeger's query API.

    Args:
        url: Where it answers.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def traces(self, service: str) -> dict[str, list[Span]]:
        """Return all traces of a service, by trace id."""
        answer = get(f"{self._url}/api/traces?service={service}&limit=1500")
        found: list[_Trace] = answer.json()["data"] or []
        traces: dict[str, list[Span]] = defaultdict(list)
        for trace in found:
            for span in trace["spans"]:
                traces[span["traceID"]].append(_span(span))
        return dict(traces)

    def span_ids(self, service: str) -> set[tuple[str, str]]:
        """Return trace id and span id of every span of a service."""
        return {
            (span.trace_id, span.span_id)
            for spans in self.traces(service).values()
            for span in spans
        }

    def has(self, trace_id: str) -> bool:
        """Tell whether it has a trace."""
        answer = get(f"{self._url}/api/traces/{trace_id}")
        return answer.status_code == requests.codes.ok

    def everything(self, service: str) -> str:
        """Return all that it tells of a service, in both versions of its API."""
        texts = [get(f"{self._url}/api/traces?service={service}&limit=1500").text]
        for trace_id in self.traces(service):
            texts += [
                get(f"{self._url}/api/traces/{trace_id}").text,
                get(f"{self._url}/api/v3/traces/{trace_id}").text,
            ]
        texts += [
            get(f"{self._url}/api/services").text,
            get(f"{self._url}/api/services/{service}/operations").text,
        ]
        return "\n".join(texts)


class Prometheus:
    """Prometheus' query API.

    Args:
        url: Where it answers.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def by(self, label: str, query: str) -> dict[str, float]:
        """Return the value of each series of an instant query, by one label."""
        answer = get(f"{self._url}/api/v1/query?query={_quoted(query)}").json()
        samples: list[_Sample] = answer["data"]["result"]
        return {
            sample["metric"].get(label, ""): float(sample["value"][1])
            for sample in samples
        }

    def exemplars(self, query: str) -> list[str]:
        """Return the trace ids of the exemplars of a query, of the last hour."""
        now = time.time()
        answer = get(
            f"{self._url}/api/v1/query_exemplars?query={_quoted(query)}"
            f"&start={now - 3600}&end={now + 60}"
        ).json()
        found: list[_ExemplarSeries] = answer["data"]
        return [
            exemplar["labels"]["trace_id"]
            for series in found
            for exemplar in series["exemplars"]
        ]


def eventually(
    read: Callable[[], T], enough: Callable[[T], bool], *, within_s: float = 30.0
) -> T:
    """Read until it is enough; return the last reading, enough or not.

    So that what an assertion shows is what was there in the end.
    """
    deadline = time.monotonic() + within_s
    value = read()
    while not enough(value) and time.monotonic() < deadline:
        time.sleep(0.3)
        value = read()
    return value


def _quoted(query: str) -> str:
    return quote(query, safe="")


def _span(span: _Span) -> Span:
    parents = [
        reference["spanID"]
        for reference in span["references"]
        if reference["refType"] == "CHILD_OF"
    ]
    return Span(
        trace_id=span["traceID"],
        span_id=span["spanID"],
        parent_id=parents[0] if parents else None,
        name=span["operationName"],
        tags=_tags(span["tags"]),
        events=[_tags(log["fields"]) for log in span["logs"]],
    )


def _tags(pairs: Sequence[_KeyValue]) -> Tags:
    return {pair["key"]: pair["value"] for pair in pairs}
