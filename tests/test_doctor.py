"""Doctor as its users run it: good apps, broken apps, servers; nothing secret told."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from otel_intercept.cli import main
from otel_intercept.cli.doctor.plan import PROBES
from tests.collectors import GrpcCollector, HttpCollector, closed_port

ROOT = Path(__file__).parent.parent
GOOD = "tests.doctored.good"
BROKEN = "tests.doctored.broken"
STALLING = "tests.doctored.stalling"
CANARY = "sk-canary-d0c7"
PLANTED = "sk-planted-"


def program(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run the real program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "otel_intercept", "doctor", *arguments],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def report(
    capsys: pytest.CaptureFixture[str], *arguments: str, exports: bool = False
) -> dict[str, object]:
    """Run doctor in this process, and return what it prints for other programs."""
    flags = [] if exports else ["--no-export"]
    capsys.readouterr()
    code = main(["doctor", *arguments, *flags, "--json"])
    printed = capsys.readouterr().out
    told: dict[str, object] = json.loads(printed)
    assert code == (0 if told["ok"] else 1)
    assert CANARY not in printed
    assert PLANTED not in printed
    return told


def items(told: Mapping[str, object], name: str) -> list[dict[str, object]]:
    """Return one list of the report."""
    found = told[name]
    assert isinstance(found, list)
    return found


def findings(told: Mapping[str, object]) -> dict[str, str]:
    """Return the line to add, by what is found."""
    return {str(item["code"]): str(item["add"]) for item in items(told, "findings")}


@pytest.mark.parametrize(
    "arguments",
    [
        (f"{GOOD}:make_app",),
        (f"{GOOD}:make_own", "--upstream-env", "MODEL_URL", "--rollout-id", "agent"),
        (f"{GOOD}:make_futures",),
        (f"{GOOD}:make_server",),
        (f"{GOOD}:make_bearer", "--header", "Authorization: Bearer {rollout_id}"),
    ],
)
def test_a_good_wiring_is_seen_whole(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    """Each way to wire an app well ends with exit code 0 and no finding."""
    told = report(capsys, *arguments)

    assert findings(told) == {}
    assert [item["ok"] for item in items(told, "probes")] == [True] * len(PROBES)


@pytest.mark.parametrize("when", ["at_once", "soon", "later"])
def test_a_machine_that_stands_still_is_no_fault_of_the_wiring(when: str) -> None:
    """Doctor's process is stopped within a probe, for longer than the app can wait."""
    done = program(f"{STALLING}:{when}", "--no-export")

    assert done.stderr == ""
    assert done.stdout.rstrip().splitlines()[-1].startswith("All is seen: 14 of 14")
    assert done.returncode == 0


def test_a_machine_that_stands_still_all_the_time_gets_no_judgement() -> None:
    """After some tries doctor says in one line why it cannot do its work."""
    done = program(f"{STALLING}:always", "--no-export")

    assert done.returncode == 2
    assert done.stdout == ""
    assert "this machine is too busy: it stood still in each of 5 tries" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("not_instrumented",), "not_instrumented", "add `instrument_app(app, regis"),
        (("wrong_key",), "wrong_rollout_id", "pass rollout_id='id'"),
        (("other_registry",), "other_registry", "make one `RolloutRegistry("),
        (
            ("opens_elsewhere", "--open-url", "/open/{rollout_id}"),
            "other_registry",
            "make one `RolloutRegistry(",
        ),
        (("too_late",), "instrumented_too_late", "before `AppRunner.setup()`"),
        (("contrib_outside",), "second_trace", "`instrument_app(root, registry)`"),
        (("deaf",), "upstream_not_reached", "pass --upstream-env NAME"),
        (("silent",), "telemetry_disabled", "`otel_intercept.sdk.configure()`"),
        (("shouting",), "no_route", "pass --route"),
        (
            ("misconfigured",),
            "misconfigured",
            "one function and one idle_close_s for all",
        ),
        (("fine", "--rollout-id", "other"), "other_rollout_id", "rollout_id=..."),
        (
            ("fine", "--rollout-id", f"{GOOD}:bearer"),
            "other_rollout_id",
            "rollout_id=...",
        ),
    ],
)
def test_a_broken_wiring_is_named_with_its_line(
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: str,
    line: str,
) -> None:
    """Each way to break a wiring has one finding, and says what to add."""
    name, *more = arguments

    told = report(capsys, f"{BROKEN}:{name}", *more)

    found = findings(told)
    assert list(found) == [code]
    assert line in found[code]


def test_rollouts_are_opened_where_the_app_was_told_to(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An app that looks for them elsewhere shows nothing, not even a good call."""
    told = report(capsys, f"{BROKEN}:other_registry")

    assert [item["seen"] for item in items(told, "probes")] == ["nothing"]


def test_a_handler_that_swallows_failures_is_named_with_its_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Failures that came out as ok are told apart by their kind."""
    told = report(capsys, f"{BROKEN}:swallowing")

    found = findings(told)
    assert list(found) == [
        "status_swallowed",
        "call_swallowed",
        "body_swallowed",
        "stream_swallowed",
        "upstream_not_timed",
    ]
    assert all("with exchange.upstream_call():" in line for line in found.values())
    assert all("exchange.watch(future)" in line for line in found.values())


def test_what_a_handler_does_not_tell_is_named_with_its_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without `describe_request` and `upstream_call`, model and time are missing."""
    told = report(capsys, f"{BROKEN}:untold")

    found = findings(told)
    assert "exchange.describe_request(body)" in found["model_unknown"]
    assert "with exchange.upstream_call():" in found["upstream_not_timed"]


def test_an_upstreams_text_is_found_where_it_comes_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The planted secret is found on a span of the app, and in the agent's answer."""
    told = report(capsys, f"{BROKEN}:leaking")
    allowed = report(capsys, f"{BROKEN}:leaking", "--allow-error-texts")

    assert {"secret_in_telemetry", "secret_in_answer"} <= findings(told).keys()
    assert "secret_in_answer" not in findings(allowed)
    assert "secret_in_telemetry" in findings(allowed)


def test_an_exporter_that_reaches_nobody_is_named_with_its_line() -> None:
    """A refused endpoint is a finding for each signal, though the wiring is good."""
    port = closed_port()
    endpoint = f"http://user:{CANARY}@127.0.0.1:{port}/{CANARY}"

    done = program(f"{BROKEN}:fine", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)

    assert done.returncode == 1
    assert done.stderr == ""
    assert f"export of traces to http://127.0.0.1:{port}: nobody listens" in done.stdout
    assert "do: start a collector there, or set OTEL_EXPORTER_OTLP_" in done.stdout
    assert "14 of 14 probes" in done.stdout
    assert CANARY not in done.stdout


def test_a_protocol_that_the_collector_does_not_speak_is_named_with_its_line() -> None:
    """A gRPC port that is spoken to in HTTP is told as such."""
    with GrpcCollector() as collector:
        done = program(f"{BROKEN}:fine", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)

    assert done.returncode == 1
    assert "speaks gRPC, but is spoken to in HTTP" in done.stdout
    assert "do: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc" in done.stdout


def test_a_collector_that_accepts_gets_the_probe_and_nothing_of_the_app() -> None:
    """The users' collector sees one probe per signal, and none of doctor's rollouts."""
    with HttpCollector() as collector:
        done = program(
            f"{BROKEN}:fine",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces",
            OTEL_TRACES_SAMPLER="always_off",
        )

    assert done.returncode == 0
    assert "All is seen: 14 of 14 probes" in done.stdout
    assert [span.name for span in collector.spans()] == ["otel_intercept.probe"]
    assert len(collector.received) == 2


@pytest.mark.parametrize("name", ["shouting", "raising", "failing_start"])
def test_what_the_app_prints_goes_nowhere(name: str) -> None:
    """Output, log lines and tracebacks of the app reach neither stream of doctor."""
    done = program(f"{BROKEN}:{name}", "--no-export", "--json")

    assert done.returncode in {1, 2}
    assert CANARY not in done.stdout + done.stderr
    assert PLANTED not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (f"{BROKEN}:raising", "(RuntimeError) at tests/doctored/broken.py:"),
        (f"{BROKEN}:pretending", "otel_intercept.errors.ConfigurationError) at tests/"),
        (f"{BROKEN}:failing_start", "(LookupError) at tests/doctored/broken.py:"),
        (
            "tests.doctored.unimportable:app",
            "(ValueError) at tests/doctored/unimportable.py:3",
        ),
        (f"tests.doctored.{'x' * 40}:app", "cannot be imported (ModuleNotFoundError)"),
        (f"{BROKEN}:nosuch", "no such attribute"),
        (f"{BROKEN}:CANARY", "neither an application nor a callable"),
        (f"{BROKEN}:demanding", "needs parameter database"),
        (f"{BROKEN}:nothing", "must make an aiohttp.web.Application"),
        (f"{BROKEN}:leaves", "the app's process ended"),
        (f"{CANARY}/make_app", "must be module:factory"),
        (f"https://{CANARY}@localhost", "without user and query"),
        (f"http://{CANARY}.example", "must be on loopback"),
        (f"http://127.0.0.1:{CANARY}", "is no URL"),
    ],
)
def test_what_cannot_be_examined_is_one_line_without_its_text(
    capsys: pytest.CaptureFixture[str], target: str, words: str
) -> None:
    """Exit code 2, our own words, a class and a place of the user's code at most."""
    code = main(["doctor", target, "--no-export"])
    printed = capsys.readouterr()

    assert code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert words in printed.err
    assert CANARY not in printed.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--header", f"Authorization: Bearer {CANARY}"),
        ("--header", f"X-Api-Key: {CANARY}"),
        ("--header", CANARY),
        ("--header-env", f"Authorization={CANARY}"),
        ("--open-url", CANARY),
        ("--close-url", f"BREW /{CANARY}"),
        ("--listen", CANARY),
        ("--timeout", CANARY),
    ],
)
def test_a_secret_in_the_arguments_is_refused_and_not_repeated(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, str]
) -> None:
    """What belongs into a variable is not taken from the command line."""
    code = main(["doctor", "a:b", *arguments])
    printed = capsys.readouterr()

    assert code == 2
    assert f"argument {arguments[0]}" in printed.err
    assert CANARY not in printed.out + printed.err


def test_a_variable_that_is_not_set_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A header without its value would only be refused by the app."""
    arguments = ["--header-env", "Authorization=NO_SUCH_VARIABLE", "--no-export"]

    code = main(["doctor", f"{BROKEN}:fine", *arguments])

    assert code == 2
    assert "--header-env" in capsys.readouterr().err


def free_ports(number: int) -> list[int]:
    """Return ports on which nobody listens, all of them different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


@contextmanager
def relaying(upstream_port: int, **environ: str) -> Iterator[str]:
    """Run the relay of this project as a server that exists; give its URL."""
    command = [
        *(sys.executable, "-m", "otel_intercept", "serve", "--no-check", "--port", "0"),
        *("--upstream", f"http://127.0.0.1:{upstream_port}"),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environ, stdout=subprocess.PIPE, text=True
    ) as relay:
        assert relay.stdout is not None
        yield relay.stdout.readline().split()[1].partition("/rollout")[0]
        relay.terminate()


RELAYED = {"secret_in_answer"}
"""A relay passes error frames on as they are."""


def test_a_server_that_runs_is_examined_over_otlp(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its telemetry comes to doctor's receiver, and each probe is judged."""
    upstream, listen = free_ports(2)
    ports = ("--upstream-port", str(upstream), "--listen", str(listen))

    endpoint = f"http://127.0.0.1:{listen}"
    with relaying(upstream, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as url:
        told = report(capsys, url, *ports)

    assert findings(told).keys() == RELAYED
    bad = [item["name"] for item in items(told, "probes") if not item["ok"]]
    assert bad == []


def test_a_server_is_asked_to_open_its_rollouts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rollouts are opened and closed by request, with a credential of a variable."""
    upstream, listen = free_ports(2)
    ports = ("--upstream-port", str(upstream), "--listen", str(listen))
    monkeypatch.setenv("MY_CREDENTIAL", f"Bearer {CANARY}")
    credential = ("--header-env", "Authorization=MY_CREDENTIAL")
    opening = ("--open-url", "PUT /rollout/{rollout_id}")
    closing = ("--close-url", "/rollout/{rollout_id}")
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{listen}",
        "OTEL_INTERCEPT_CONTROL_SECRET": CANARY,
    }

    with relaying(upstream, **environ) as url:
        refused = main(["doctor", url, *ports, *opening])
        told = report(capsys, url, *ports, *opening, *closing, *credential)

    assert refused == 2
    assert findings(told).keys() == RELAYED


@pytest.mark.parametrize("call", ["messages", "responses"])
def test_a_server_that_runs_is_examined_by_its_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, call: str
) -> None:
    """The same over OTEL_INTERCEPT_FILE, in one rollout, for other dialects."""
    (upstream,) = free_ports(1)
    file = tmp_path / "spans.jsonl"
    environ = {
        "OTEL_INTERCEPT_FILE": str(file),
        "OTEL_TRACES_EXPORTER": "otlp_json_file",
        "OTEL_METRICS_EXPORTER": "none",
    }
    route = f"/rollout/{{rollout_id}}/v1/{call}"
    arguments = ("--file", str(file), "--rollout-id", "mine", "--route", route)

    with relaying(upstream, **environ) as url:
        told = report(capsys, url, *arguments, "--upstream-port", str(upstream))

    assert findings(told).keys() == RELAYED


def test_a_server_says_which_variables_it_needs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A server that is not there is told, with what to start it with."""
    upstream, listen, nobody = free_ports(3)
    url = f"http://127.0.0.1:{nobody}"
    ports = ["--upstream-port", str(upstream), "--listen", str(listen)]

    code = main(["doctor", url, *ports])
    printed = capsys.readouterr()

    assert code == 2
    assert f"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{listen}" in printed.err
    assert f"OPENAI_BASE_URL=http://127.0.0.1:{upstream}/v1" in printed.err
    assert "nobody answers at the target" in printed.err


@pytest.mark.parametrize("option", ["--listen", "--upstream-port"])
def test_a_port_that_is_taken_is_told(
    capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """The line names the option that helps."""
    free = str(free_ports(1)[0])
    others = {"--listen": free, "--upstream-port": free}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        others[option] = str(taken.getsockname()[1])
        ports = [word for pair in others.items() for word in pair]

        code = main(["doctor", "http://127.0.0.1:1", *ports])

    assert code == 2
    assert f"the address is in use; pass {option}" in capsys.readouterr().err


def test_an_opening_that_fails_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Without open rollouts nothing could be judged."""
    code = main(
        ["doctor", f"{BROKEN}:fine", "--no-export", "--open-url", "/no/such/route"]
    )

    assert code == 2
    assert "--open-url was answered with 404" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The variable to set is named."""
    arguments = ["--file", str(tmp_path / CANARY), "--upstream-port", "0"]

    code = main(["doctor", "http://127.0.0.1:1", *arguments])
    printed = capsys.readouterr()

    assert code == 2
    assert "OTEL_INTERCEPT_FILE" in printed.err
    assert CANARY not in printed.err
