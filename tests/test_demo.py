"""The demo: what is injected is observed, in the file and nowhere else."""

import contextlib
import io
import json
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from deploy.stack.stack import Ports
from otel_intercept.cli import main
from otel_intercept.cli.demo.agents import AgentExit
from otel_intercept.cli.demo.command import demo
from otel_intercept.cli.demo.kinds import KINDS
from otel_intercept.cli.demo.loop import Played
from otel_intercept.cli.demo.plan import plan
from otel_intercept.cli.demo.progress import Progress
from otel_intercept.cli.demo.report import Findings, print_report
from otel_intercept.cli.demo.scenario import Host
from otel_intercept.cli.demo.stack import ENDPOINT, PROTOCOL, STACK_URLS, with_stack
from otel_intercept.cli.demo.verdict import judge
from otel_intercept.cli.output import Refused, console
from otel_intercept.cli.story import RolloutStory, read_all
from otel_intercept.cli.tree import span_tree
from otel_intercept.errors import RolloutError, StreamInterrupted
from otel_intercept.failure import without_exception
from otel_intercept.recorder import Balance
from otel_intercept.semconv import ErrorType, ExchangeOutcome, Phase, RolloutOutcome
from tests.collectors import Answer, HttpCollector

ROOT = Path(__file__).parent.parent
PLANTED = "sk-planted-"
BALANCE = Balance(9, 9, 0, 9, 0, 0, 0)


class Ran(NamedTuple):
    """One demo that was run in this process."""

    code: int
    printed: str
    path: Path

    @property
    def stories(self) -> tuple[RolloutStory, ...]:
        """What was exported."""
        return read_all(self.path)


def run(path: Path, *arguments: str) -> Ran:
    """Run a demo in this process, as a pipe would see it."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(["demo", "--file", str(path), *arguments])
    return Ran(code, out.getvalue(), path)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Run the demo once, for all tests that only look at it."""
    return run(tmp_path_factory.mktemp("demo") / "spans.jsonl", "--seed", "1")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no variable of the machine decide where telemetry goes."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


def played_as_planned() -> list[Played]:
    """Return every kind as it would be played if all went well."""
    items = []
    for planned in plan(1, seed=0, stream_failure="done"):
        types = [turn.error_type for turn in planned.scenario.turns if turn.error_type]
        error = error_of(types[0]) if types else None
        items.append(Played(planned, AgentExit(noticed=False, empty=False), error))
    return items


def error_of(error_type: ErrorType) -> RolloutError:
    """Make an error as it stands on a state."""
    failure = without_exception(error_type, phase=Phase.EOF, key=b"k" * 16)
    return StreamInterrupted(failure)


def test_the_plan_has_every_kind_and_every_word() -> None:
    """Each outcome and each error type is injected somewhere."""
    turns = [turn for kind in KINDS for turn in kind.turns]

    assert {turn.outcome for turn in turns} == set(ExchangeOutcome)
    assert {turn.error_type for turn in turns} == {*ErrorType, None}
    assert {kind.outcome for kind in KINDS} == set(RolloutOutcome)
    assert len({kind.name for kind in KINDS}) == len(KINDS)


def test_the_seed_decides_the_plan() -> None:
    """The same seed gives the same plan, another one another, none without a kind."""
    first = plan(100, seed=1, stream_failure="done")

    assert plan(100, seed=1, stream_failure="done") == first
    assert plan(100, seed=2, stream_failure="done") != first
    assert len(first) == 100
    assert {item.scenario.name for item in first} == {kind.name for kind in KINDS}
    assert len(plan(1, seed=1, stream_failure="done")) == len(KINDS)


def test_everything_ends_as_injected(ran: Ran) -> None:
    """The demo exits with 0, and says so."""
    assert ran.code == 0
    assert "ended exactly as injected" in ran.printed


def test_every_outcome_and_error_type_is_in_the_file(ran: Ran) -> None:
    """What the report shows has really been exported."""
    outcomes = {
        item.span.attributes["intercept.exchange.outcome"]
        for story in ran.stories
        for item in story.exchanges
    }
    errors = {
        event.attributes["error.type"]
        for story in ran.stories
        for event in story.failures
    }

    assert outcomes == set(ExchangeOutcome)
    assert errors == set(ErrorType)
    assert {story.outcome for story in ran.stories} == set(RolloutOutcome)


def test_rollouts_are_marked_as_scripted(ran: Ran) -> None:
    """Nobody can take the demo's failures for real ones."""
    roots = [story.root for story in ran.stories]

    assert all(
        root is not None and root.attributes["demo.scripted"] is True for root in roots
    )


def test_one_logical_failure_with_a_retry_is_two_exchanges(ran: Ran) -> None:
    """A call that the agent's SDK repeats carries its retry count."""
    story = next(
        item for item in ran.stories if item.rollout_id.startswith("server-error")
    )

    counts = [
        item.span.attributes.get("intercept.exchange.retry_count")
        for item in story.exchanges
    ]
    assert counts == [0, 0, 1]


def test_the_planted_secret_is_nowhere(ran: Ran) -> None:
    """The upstream's error texts are in neither the file nor the report."""
    assert "error texts of the upstream" in ran.printed
    assert PLANTED not in ran.printed
    assert PLANTED.encode() not in ran.path.read_bytes()


def test_the_report_shows_all_it_must(ran: Ran) -> None:
    """Outcomes, error types, one rollout, the balance, the file and what to do next."""
    for word in (*ExchangeOutcome, *ErrorType, *RolloutOutcome):
        assert word in ran.printed
    for words in (
        "scripted-1",
        "One rollout that failed",
        "event exception",
        "intercept.failure.phase",
        "noticed nothing",
        "Balance: ",
        str(ran.path),
        "explain silent-500",
        "Jaeger",
        "otlp_json_file",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "and nowhere else",
    ):
        assert words in ran.printed


def test_the_report_fits_80_columns_without_control_codes(ran: Ran) -> None:
    """Only the lines to be copied may be longer."""
    report, _, steps = ran.printed.partition("Look further")

    assert max(map(len, report.splitlines())) <= 80
    assert "\x1b" not in report + steps


def test_the_file_is_one_that_others_read(ran: Ran) -> None:
    """Every line is an OTLP trace request with ids in hex."""
    for line in ran.path.read_text(encoding="utf-8").splitlines():
        request = json.loads(line)
        span = request["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
        assert set(request) == {"resourceSpans"}
        assert len(bytes.fromhex(span["traceId"])) == 16


def test_explain_tells_a_rollout_of_the_demo(
    ran: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rollout of the demo can be explained, whatever happened in it."""
    for story in ran.stories[::6]:
        assert main(["explain", story.rollout_id, "--file", str(ran.path)]) == 0
        assert story.rollout_id in capsys.readouterr().out


def test_error_frames_make_agents_notice(tmp_path: Path) -> None:
    """With error frames no failure of the InterceptionServer is silent any more."""
    ran = run(tmp_path / "spans.jsonl", "--stream-failure", "error_frame")

    silent = [
        story.rollout_id
        for story in ran.stories
        for item in story.exchanges
        if item.span.attributes["intercept.exchange.outcome"] == "silent_empty"
    ]
    assert ran.code == 0
    assert {name.rpartition("-")[0] for name in silent} == {"empty-stream"}


def test_an_earlier_demo_is_overwritten_and_nothing_else(
    ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo's own file is replaced; any other one stays, with exit code 2."""
    own = tmp_path / "own.jsonl"
    own.write_bytes(ran.path.read_bytes())
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text('{"resourceSpans": []}\n', encoding="utf-8")
    text = tmp_path / "text"
    text.write_text("notes\n", encoding="utf-8")

    again = run(own, "--seed", "2")
    codes = [main(["demo", "--file", str(path)]) for path in (foreign, text)]
    lines = capsys.readouterr().err.splitlines()

    assert again.code == 0
    assert "The earlier demo in" in again.printed
    assert len(again.stories) == len(ran.stories)
    assert codes == [2, 2]
    assert all("is not a file of this command" in line for line in lines)
    assert foreign.read_text(encoding="utf-8") == '{"resourceSpans": []}\n'
    assert text.read_text(encoding="utf-8") == "notes\n"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/proc/none", "no such file or directory"),
        ("/", "it is a directory"),
        ("/dev/null", "it is not a regular file"),
    ],
)
def test_a_file_that_cannot_be_written_is_one_line(
    capsys: pytest.CaptureFixture[str], path: str, words: str
) -> None:
    """The demo says what is wrong with its file before it starts anything."""
    code = main(["demo", "--file", path])
    printed = capsys.readouterr()

    assert code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert words in printed.err


def test_a_bad_variable_is_named_before_anything_is_overwritten(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad OTLP endpoint gives exit code 2, its variable's name and not its value."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://sk-canary-1")
    before = ran.path.read_bytes()

    code = main(["demo", "--file", str(ran.path)])
    printed = capsys.readouterr()

    assert code == 2
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in printed.err
    assert printed.err.count("\n") == 1
    assert "canary" not in printed.out + printed.err
    assert ran.path.read_bytes() == before


def test_an_endpoint_gets_it_all_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an OTLP endpoint in the environment the same spans arrive there."""
    path = tmp_path / "spans.jsonl"
    with HttpCollector() as collector:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        code = demo(
            rollouts=1, seed=1, path=path, stream_failure="done", environ=environ
        )
        arrived = {span.span_id.hex() for span in collector.spans()}
        metrics = {metric.name for metric in collector.metrics()}

    printed = capsys.readouterr().out
    written = {
        item.span.span_id for story in read_all(path) for item in story.exchanges
    }
    assert code == 0
    assert "took all of it" in printed
    assert written <= arrived
    assert "intercept.failures" in metrics
    assert PLANTED.encode() not in collector.raw()


def test_the_stack_gets_it_all_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With ``--stack`` spans arrive where the variable says, and the URLs are told."""
    path = tmp_path / "spans.jsonl"
    with HttpCollector() as collector:
        code = demo(
            rollouts=1,
            seed=1,
            path=path,
            stream_failure="done",
            stack=True,
            environ={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url},
        )
        arrived = len(collector.spans())

    told = capsys.readouterr().out
    assert code == 0
    assert arrived > 0
    assert all(url in told for _, url in STACK_URLS)


def test_the_stack_is_where_its_files_put_it() -> None:
    """The demo sends to, and names, the ports on which the stack listens."""
    ports = Ports()
    numbers = [urlsplit(url).port for _, url in STACK_URLS]

    assert with_stack({})[ENDPOINT] == f"http://127.0.0.1:{ports.otlp_http}"
    assert with_stack({ENDPOINT: " "}) == with_stack({})
    assert with_stack({PROTOCOL: "grpc"})[ENDPOINT].endswith(f":{ports.otlp_grpc}")
    assert with_stack({ENDPOINT: "http://h:1"}) == {ENDPOINT: "http://h:1"}
    assert numbers == [ports.jaeger_query, ports.prometheus, ports.alertmanager]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_stack_that_is_down_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str
) -> None:
    """Nothing is played or written when nothing listens, and no endpoint repeated."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environ = {
        ENDPOINT: f"http://127.0.0.1:{port}/sk-canary-2",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
    }

    with pytest.raises(Refused):
        demo(
            rollouts=1,
            seed=1,
            path=tmp_path / "spans.jsonl",
            stream_failure="done",
            stack=True,
            environ=environ,
        )

    printed = capsys.readouterr()
    assert "nothing listens" in printed.err
    assert "make stack" in printed.err
    assert printed.err.count("\n") == 1
    assert "canary" not in printed.out + printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_page_of_somebody_else_stops_the_demo_before_it_starts(
    ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither that page nor the earlier file beside it is touched."""
    path, page = tmp_path / "spans.jsonl", tmp_path / "spans.html"
    path.write_bytes(ran.path.read_bytes())
    page.write_text("notes", encoding="utf-8")

    code = main(["demo", "--file", str(path)])

    assert code == 2
    assert "exists and is not a report" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == "notes"
    assert path.read_bytes() == ran.path.read_bytes()


def test_the_demo_writes_a_page_without_the_planted_secret(ran: Ran) -> None:
    """The page beside the file has every rollout, is named, and holds no secret."""
    page = ran.path.with_suffix(".html")
    content = page.read_text(encoding="utf-8")

    assert str(page) in ran.printed
    assert all(f">{story.rollout_id}<" in content for story in ran.stories)
    assert PLANTED not in content


def test_an_endpoint_that_refuses_does_not_spoil_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is complete when the collector is broken, and the balance tells."""
    with HttpCollector(answer=Answer(status=400)) as collector:
        environ = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces"}
        code = demo(
            rollouts=1,
            seed=1,
            path=tmp_path / "spans.jsonl",
            stream_failure="done",
            environ=environ,
        )

    assert code == 0
    assert "did not take all of it" in capsys.readouterr().out


def test_a_terminal_sees_progress(tmp_path: Path) -> None:
    """On a terminal the rollouts that run are shown, with the means of a terminal."""
    master, slave = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "otel_intercept", "demo", "--rollouts", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"},
        stdout=slave,
        stderr=subprocess.PIPE,
    )
    os.close(slave)
    shown = bytearray()
    with contextlib.suppress(OSError):
        while data := os.read(master, 65_536):
            shown += data
    os.close(master)
    _, err = running.communicate(timeout=60)

    assert running.returncode == 0
    assert err == b""
    assert b"\x1b[" in shown
    assert b"rollouts played" in shown
    assert b"/3" in shown


def test_progress_shows_what_is_injected() -> None:
    """The live view names the rollout, its turn and what goes wrong in it."""
    planned = next(
        item
        for item in plan(1, seed=0, stream_failure="done")
        if item.scenario.name == "timeout"
    )
    out = Console(file=io.StringIO(), force_terminal=True, width=100)
    played = Played(planned, AgentExit(noticed=True, empty=False), None)

    with Progress(out, 1) as progress:
        progress.turn(planned, 2)
        out.print(progress.view())
        progress.ended(played)
        out.print(progress.view())
    shown = out.file.getvalue() if isinstance(out.file, io.StringIO) else ""

    assert planned.rollout_id in shown
    assert "upstream hangs" in shown
    assert "1 of 1 rollouts" in shown


def test_every_kind_of_difference_is_found(ran: Ran) -> None:
    """A wrong outcome, one thing missing and one too many are all told."""
    scenarios = plan(48, seed=1, stream_failure="done")
    by_id = {item.rollout_id: item for item in scenarios}
    stories = {story.rollout_id: story for story in ran.stories}
    missing, shortened, swapped, unfailed = (
        next(name for name in by_id if name.startswith(kind))
        for kind in ("messages", "responses", "abandoned", "silent-500")
    )
    del stories[missing]
    shorter = stories[shortened]
    stories[shortened] = shorter._replace(exchanges=shorter.exchanges[:-1])
    stories[swapped] = stories[swapped]._replace(root=stories[shortened].root)
    stories["stranger"] = stories[swapped]._replace(rollout_id="stranger")
    played = [
        Played(
            item,
            AgentExit(noticed=False, empty=False),
            None
            if item.rollout_id == unfailed
            else next(
                (
                    error_of(turn.error_type)
                    for turn in item.scenario.turns
                    if turn.error_type
                ),
                None,
            ),
        )
        for item in scenarios
    ]

    verdict = judge(played, list(stories.values()))

    assert verdict.differences == (
        *sorted(
            (
                f"{missing}: is not in the file",
                f"{shortened}: exchange 2 nothing, injected ok",
                f"{swapped}: rollout completed, injected abandoned",
                f"{unfailed}: error on the state None, injected upstream_server_error",
            ),
            key=lambda line: list(by_id).index(line.partition(":")[0]),
        ),
        "stranger: was never played",
    )
    assert verdict.exchanges["ok"].injected > verdict.exchanges["ok"].observed - 2


def test_a_failure_that_came_too_late_is_a_difference(ran: Ran) -> None:
    """A failure outside any exchange was never injected, and stands in the tree."""
    item = next(
        item
        for item in plan(48, seed=1, stream_failure="done")
        if item.scenario.name == "timeout"
    )
    story = next(found for found in ran.stories if found.rollout_id == item.rollout_id)
    failed = next(found.span for found in story.exchanges if found.failure)
    story = story._replace(late=(failed,), root=None)
    played = Played(
        item, AgentExit(noticed=True, empty=False), error_of(ErrorType.UPSTREAM_TIMEOUT)
    )
    target = io.StringIO()

    verdict = judge([played], [story])
    console(target).print(span_tree(story))

    assert f"{item.rollout_id}: rollout None, injected failed" in verdict.differences
    assert any(
        "a failure of its own, upstream_timeout" in x for x in verdict.differences
    )
    assert target.getvalue().count("event exception") == 2
    assert "not ended" in target.getvalue()


def test_a_difference_is_told_and_makes_the_exit_code() -> None:
    """What is not as injected is listed under a verdict that nobody can overlook."""
    played = played_as_planned()
    verdict = judge(played, [])
    findings = Findings(
        played, [], verdict, BALANCE, Path("f"), False, 3, 0, duration_s=1.0
    )
    target = io.StringIO()

    print_report(console(target), findings)

    assert not findings.good
    assert verdict.exchanges["ok"].observed == 0
    assert len(verdict.differences) == len(KINDS)
    assert "DIFFERENT" in target.getvalue()
    assert "is not in the file" in target.getvalue()


def test_lost_telemetry_is_told_apart_from_differences() -> None:
    """When the collector took nothing and the file is short, that is what is said."""
    verdict = judge(played_as_planned(), [])
    lost = Balance(9, 9, 0, 4, 5, 0, 0)
    findings = Findings(
        played_as_planned(), [], verdict, lost, Path("f"), True, 3, 0, duration_s=1.0
    )
    target = io.StringIO()

    print_report(console(target), findings)

    assert not findings.good
    assert "INCOMPLETE" in target.getvalue()
    assert "DIFFERENT" not in target.getvalue()


def test_a_secret_in_the_file_is_a_difference(ran: Ran) -> None:
    """Good outcomes do not make up for a leak."""
    verdict = judge([], [])
    findings = Findings(
        [], ran.stories, verdict, BALANCE, ran.path, False, 3, 1, duration_s=1.0
    )
    target = io.StringIO()

    print_report(console(target), findings)

    assert not findings.good
    assert "have it 1 times" in " ".join(target.getvalue().split())
    assert "DIFFERENT" in target.getvalue()


def test_own_app_outcomes_are_marked(ran: Ran) -> None:
    """The table says which outcomes the InterceptionServer cannot produce."""
    by_outcome: dict[str, set[Host]] = {}
    for kind in KINDS:
        for turn in kind.turns:
            by_outcome.setdefault(turn.outcome, set()).add(kind.host)
    apart = {name for name, hosts in by_outcome.items() if hosts == {Host.APP}}

    assert apart == {"error_frame", "no_terminal", "handler_failed"}
    assert all(f"{name}*" in ran.printed for name in apart)
    assert "silent_empty*" not in ran.printed
