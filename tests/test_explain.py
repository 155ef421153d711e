"""The command ``explain``: one rollout of an OTLP file as a causal timeline."""

import json
import stat
from pathlib import Path

import pytest

from otel_intercept import RolloutOutcome, RolloutRegistry
from otel_intercept.cli import main
from otel_intercept.cli.story import find, number_of
from tests.stories import CANARY, failing, healthy, write


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no line wrap, so that words can be looked for."""
    monkeypatch.setenv("COLUMNS", "150")


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Explain in this process; return what was printed."""
    assert main(["explain", *arguments]) == 0
    return capsys.readouterr().out


def test_a_healthy_rollout_is_told_in_order(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Opening, request, upstream, chunks, outcome and end stand in order of time."""
    path = write(tmp_path / "spans.jsonl", healthy)

    told = explained(capsys, "healthy", "--file", str(path))

    words = [
        "rollout healthy: completed",
        "1 exchange, 0 failures",
        "+0.000 s opened",
        "exchange 0: chat_completions, stream, retry 1 by the agent's SDK",
        "call upstream for scripted-1",
        "upstream took",
        "2 chunks, first after",
        "longest gap",
        "1 keepalive",
        "ok, status 200: the answer was delivered whole",
        "completed: ran to its end without a failure",
    ]
    places = [told.find(word) for word in words]
    assert -1 not in places
    assert places == sorted(places)


def test_the_first_failure_is_marked_and_the_late_one_is_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The first failure says all that is known of it; a later one stands apart."""
    path = write(tmp_path / "spans.jsonl", failing)

    told = explained(capsys, "failing", "--file", str(path))

    assert "rollout failing: failed" in told
    assert "1 exchange, 2 failures" in told
    assert told.count("FIRST FAILURE upstream_connection") == 1
    assert "phase upstream_call, origin upstream, retryable" in told
    assert "raised as ConnectionResetError" in told
    assert "fingerprint " in told
    assert "and failed: upstream_connection" in told
    assert "silent_empty, status 200" in told
    assert "outside any open exchange: failure upstream_timeout" in told
    assert CANARY not in told


def test_a_rollout_that_never_ended_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With only the marker in the file, the rollout still runs or was killed."""
    path = tmp_path / "spans.jsonl"
    write(path, lambda registry: registry.open("open"), shut_down=False)

    told = explained(capsys, "open", "--file", str(path))

    assert "rollout open: not ended" in told
    assert "still running, or killed" in told


def test_of_two_rollouts_with_one_id_the_last_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Rollouts of the same id are told apart by their trace."""
    path = tmp_path / "spans.jsonl"
    write(path, healthy)
    write(
        path,
        lambda registry: registry.open("healthy"),
        lambda registry: (
            registry.close("healthy", outcome=RolloutOutcome.STOPPED) and None
        ),
    )

    told = explained(capsys, "healthy", "--file", str(path))

    assert "2 rollouts in the file have this id" in told
    assert "rollout healthy: stopped" in told


def test_json_is_for_machines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """``--json`` prints one object with the same facts, times relative to the start."""
    path = write(tmp_path / "spans.jsonl", healthy, failing)

    found = json.loads(explained(capsys, "failing", "--json", "--file", str(path)))

    assert found["outcome"] == "failed"
    assert found["ended"] is True
    assert found["first_failure"] == found["exchanges"][0]["failure"]
    assert found["first_failure"]["attributes"]["error.type"] == "upstream_connection"
    assert found["late_failures"][0]["attributes"]["error.type"] == "upstream_timeout"
    assert found["exchanges"][0]["upstream"][0]["start_s"] >= 0
    assert found["end_s"] >= found["exchanges"][0]["end_s"]


def test_json_of_an_open_rollout_has_no_end(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What is not known is null."""
    path = tmp_path / "spans.jsonl"
    write(path, lambda registry: registry.open("open"), shut_down=False)

    found = json.loads(explained(capsys, "open", "--json", "--file", str(path)))

    assert found["ended"] is False
    assert found["outcome"] is None
    assert found["end_s"] is None
    assert found["first_failure"] is None


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_timeline_fits_the_terminal(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    columns: int,
) -> None:
    """No line is wider than the terminal, and pipes get no control codes."""
    path = write(tmp_path / "spans.jsonl", failing)
    monkeypatch.setenv("COLUMNS", str(columns))

    told = explained(capsys, "failing", "--file", str(path))

    assert max(map(len, told.splitlines())) <= columns
    assert "\x1b" not in told


def test_an_unknown_id_names_some_that_are_known(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An unknown id is one line with the number of rollouts and at most ten ids."""

    def many(registry: RolloutRegistry) -> None:
        for number in range(12):
            registry.open(f"r{number}")

    path = write(tmp_path / "spans.jsonl", many)

    code = main(["explain", "nobody", "--file", str(path)])
    line = capsys.readouterr().err

    assert code == 2
    assert line.count("\n") == 1
    assert "which has 12 rollouts: for example r0, r1," in line
    assert "r9" in line
    assert "r10" not in line


def test_the_only_rollout_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With one rollout in the file the line is in the singular."""
    path = write(tmp_path / "spans.jsonl", healthy)

    code = main(["explain", "nobody", "--file", str(path)])

    assert code == 2
    assert "which has 1 rollout: healthy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file has no rollout at all"),
        (f"not JSON {CANARY}\n".encode(), "cannot use"),
        (f'{{"a": "{CANARY}"}}\n'.encode(), "cannot use"),
        (bytes(range(256)), "cannot use"),
    ],
)
def test_a_file_of_something_else_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, words: str
) -> None:
    """A file that is no OTLP JSON gives exit code 2, and nothing of it is printed."""
    path = tmp_path / "other"
    path.write_bytes(content)

    code = main(["explain", "any", "--file", str(path)])
    printed = capsys.readouterr()

    assert code == 2
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert CANARY not in printed.out + printed.err


def test_a_file_that_cannot_be_read_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A missing file and a directory are named with what is wrong."""
    missing = main(["explain", "any", "--file", str(tmp_path / "none")])
    missing_line = capsys.readouterr().err
    directory = main(["explain", "any", "--file", str(tmp_path)])
    directory_line = capsys.readouterr().err

    assert (missing, directory) == (2, 2)
    assert missing_line.endswith("none: no such file or directory\n")
    assert directory_line.endswith(": it is a directory\n")


def test_foreign_spans_and_control_characters_are_harmless(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Spans of others are left out; text of a file cannot control the terminal."""

    def attribute(key: str, **value: object) -> dict[str, object]:
        return {"key": key, "value": value}

    spans = [
        {"traceId": "1" * 32, "spanId": "2" * 16, "name": "GET /"},
        {
            "traceId": "1" * 32,
            "spanId": "3" * 16,
            "name": "x",
            "startTimeUnixNano": "1000000000",
            "endTimeUnixNano": "2000000000",
            "attributes": [
                attribute("intercept.rollout.id", stringValue="odd"),
                attribute("intercept.exchange.outcome", stringValue="new\x1b[2J"),
                attribute("intercept.stream.chunks", intValue="1"),
            ],
        },
        {
            "traceId": "1" * 32,
            "spanId": "4" * 16,
            "name": "failure",
            "startTimeUnixNano": "1000000000",
            "endTimeUnixNano": "1000000000",
            "attributes": [attribute("intercept.rollout.id", stringValue="odd")],
        },
    ]
    path = tmp_path / "foreign.jsonl"
    line = {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")

    told = explained(capsys, "odd", "--file", str(path))

    assert "new?[2J" in told
    assert "\x1b" not in told
    assert "1 chunk" in told


def test_numbers_are_numbers() -> None:
    """A flag or a text where a number belongs counts as absent."""
    assert number_of({"a": True}, "a") is None
    assert number_of({"a": "1"}, "a") is None
    assert number_of({"a": 1.5}, "a") == 1.5


def test_exported_files_are_the_owners_alone(tmp_path: Path) -> None:
    """A file that explain reads was written for its owner only."""
    path = write(tmp_path / "spans.jsonl", healthy)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert find(path, "healthy").rollouts == 1
