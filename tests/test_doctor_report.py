"""Doctor's report in a terminal, and what its receiver reads."""

import io
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from rich.console import Console

from otel_intercept import RolloutRegistry, semconv
from otel_intercept.cli.doctor.evidence import Injected
from otel_intercept.cli.doctor.exports import ExportCheck
from otel_intercept.cli.doctor.findings import Code, find
from otel_intercept.cli.doctor.judge import Judgement, Row
from otel_intercept.cli.doctor.options import Opening, header, header_variable, opening
from otel_intercept.cli.doctor.plan import PROBES
from otel_intercept.cli.doctor.report import Report, print_report
from otel_intercept.sdk import read_spans
from otel_intercept.sdk.otlp_json import spans_line
from otel_intercept.sdk.otlp_proto import spans_of_request, sum_of_request
from otel_intercept.sdk.probe import Answered
from otel_intercept.testing import TelemetryRecorder
from tests.samples import exchange, failed_exchange, wait

DOCS = Path(__file__).parent.parent / "docs" / "doctor.md"

ROW = Row(Injected(PROBES[0], "r", "0" * 32, "0" * 16), "ok", good=True)
BAD = Row(Injected(PROBES[2], "r", "0" * 32, "0" * 16), "\x1b[2Jok", good=False)
REPORT = Report(
    Judgement((ROW, BAD), (find(Code.MODEL_UNKNOWN, ("good",)),)),
    (ExportCheck("traces", "http://h:1", Answered.BUSY, 503, "is busy", "wait"),),
    ("A note.",),
)


def printed(report: Report, *, terminal: bool) -> str:
    """Return what is printed."""
    target = io.StringIO()
    out = Console(
        file=target, force_terminal=terminal, width=100, highlight=False, markup=False
    )
    print_report(out, report)
    return target.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_report_has_every_row_check_and_finding(terminal: bool) -> None:
    """A terminal gets a table in colour, anything else plain lines."""
    text = printed(REPORT, terminal=terminal)

    assert ("\x1b[" in text) == terminal
    assert "\x1b[2J" not in text
    assert "rate-limited" in text
    assert "upstream answers 429" in text
    assert "export of traces to http://h:1: is busy (HTTP 503)" in text
    assert "A note." in text
    assert "model_unknown" in text
    assert "do: call `exchange.describe_request(body)`" in text
    assert "do: wait" in text
    assert "2 findings; 1 of 2 probes" in text


def test_spans_are_read_from_protobuf_as_from_a_file(tmp_path: Path) -> None:
    """Both readers of OTLP give the same objects."""
    recorder = TelemetryRecorder()
    rollout = RolloutRegistry(recorder.telemetry).open("r1", attributes={"n": 1.5})
    recorder.telemetry.begin(sampled=True)
    recorder.telemetry.put(failed_exchange(rollout.ref))
    recorder.telemetry.begin(sampled=True)
    recorder.telemetry.put(
        exchange(rollout.ref, waits=(wait(),), retry_count=1, link=(7, 9))
    )
    spans = recorder.spans()
    file = tmp_path / "spans.jsonl"
    file.write_bytes(spans_line(spans))

    read = spans_of_request(encode_spans(spans).SerializeToString())

    assert read == tuple(read_spans(file))
    assert len(spans) >= 4


def test_rejected_requests_are_read_from_protobuf() -> None:
    """Sums are read by name and label; anything else is left alone."""
    recorder = TelemetryRecorder()
    registry = RolloutRegistry(recorder.telemetry)
    for _ in range(3):
        registry.reject(semconv.Dialect.MESSAGES)
    recorder.flush()
    labels = {semconv.EXCHANGE_OUTCOME: "rejected"}

    # The metrics are the last request of all.
    series = sum_of_request(recorder.exported_bytes(), semconv.EXCHANGES.name, labels)

    assert series is not None
    assert sum(series.values()) == 3
    assert all("rejected" in " ".join(found) for found in series)


def test_bytes_that_are_no_otlp_are_none() -> None:
    """The receiver goes on after whatever it is sent."""
    assert spans_of_request(b"\xff\xff") is None
    assert sum_of_request(b"\xff\xff", "x", {}) is None


def test_headers_and_openings_are_read_as_they_are_typed() -> None:
    """Secrets are told by the header's name, unless the id stands in the value."""
    assert header("X-Rollout: {rollout_id}") == ("X-Rollout", "{rollout_id}")
    assert header("Authorization: Bearer {rollout_id}") is not None
    assert header("Cookie: a=b") is None
    assert header_variable("Authorization=MY_TOKEN") == ("Authorization", "MY_TOKEN")
    assert header_variable("Authorization=Bearer x") is None
    assert opening("/open/{rollout_id}", "POST") == Opening(
        "POST", "/open/{rollout_id}"
    )
    assert opening("PUT /open", "POST") == Opening("PUT", "/open")
    assert opening("open", "POST") is None


def test_every_finding_is_explained() -> None:
    """The documentation names each code, and every code has its words."""
    text = DOCS.read_text(encoding="utf-8")

    assert [code for code in Code if f"`{code.value}`" not in text] == []
