"""The instrumentor itself: when it acts, whose telemetry it uses, how it winds down."""

import importlib.metadata
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.context import ForkProcess, ForkServerProcess, SpawnProcess
from pathlib import Path

import pytest

from otel_intercept.errors import ConfigurationError
from otel_intercept.instrumentation.verifiers import VerifiersInstrumentor, begin_worker
from otel_intercept.instrumentation.verifiers.host import Host, Options
from otel_intercept.instrumentation.verifiers.patches import Patches
from otel_intercept.instrumentation.verifiers.versions import (
    SUPPORTED,
    Support,
    support_of,
)
from otel_intercept.instrumentation.verifiers.workers import Worker, patch
from otel_intercept.sdk import read_spans
from otel_intercept.testing import TelemetryRecorder
from tests import worker_targets
from tests.worker_targets import SECRET

ROOT = Path(__file__).parents[1]
QUIET = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
BARE = {name: value for name, value in os.environ.items() if "OTEL" not in name}


def run(
    program: str, *command: str, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a program of one line in a process of its own."""
    return subprocess.run(
        [*command, sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        env={**BARE, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def outcomes_in(path: Path) -> list[object]:
    """Return the outcomes of the rollouts in a file of spans."""
    return [
        span.attributes["intercept.rollout.outcome"]
        for span in read_spans(path)
        if span.name == "rollout"
    ]


@pytest.mark.parametrize(
    ("version", "support"),
    [
        ("0.1.14", Support(legacy=False, v1=False)),
        ("0.2.0", Support(legacy=True, v1=False)),
        ("0.3.0", Support(legacy=True, v1=False)),
        ("0.3.1", Support(legacy=True, v1=True)),
        ("0.3.2.dev210", Support(legacy=False, v1=False)),
        ("0.4.0", Support(legacy=False, v1=True)),
        ("0.4.1.dev86", Support(legacy=False, v1=True)),
        ("0.5.0.dev1", Support(legacy=False, v1=False)),
        ("0.5.0", Support(legacy=False, v1=False)),
        ("no version", Support(legacy=False, v1=False)),
    ],
)
def test_releases_are_told_apart(version: str, support: Support) -> None:
    """Each release is observed as far as its servers are known, and no further."""
    assert support_of(version) == support


def installed(directory: Path, version: str) -> dict[str, str]:
    """Return an environment in which another release of verifiers is installed."""
    info = directory / f"verifiers-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: verifiers\nVersion: {version}\n"
    )
    return {"PYTHONPATH": f"{directory}{os.pathsep}{ROOT}"}


INSTRUMENT = (
    "import logging; logging.basicConfig(format='%(levelname)s %(message)s');"
    "from otel_intercept.instrumentation.verifiers import VerifiersInstrumentor as V;"
    "V().instrument(); import multiprocessing.process as p;"
    "print(V().is_instrumented_by_opentelemetry, type(p.BaseProcess.__init__).__name__)"
)


def test_an_unsupported_release_is_left_alone(tmp_path: Path) -> None:
    """One WARNING says which releases are supported, and nothing is changed."""
    done = run(INSTRUMENT, **installed(tmp_path, "0.9.0"), **QUIET)

    assert done.stdout.split() == ["False", "function"]
    (line,) = done.stderr.splitlines()
    assert line.startswith("WARNING")
    assert SUPPORTED in line


def test_instrumenting_imports_nothing_of_verifiers(tmp_path: Path) -> None:
    """Verifiers takes seconds to import, which is left to who needs it."""
    program = f"{INSTRUMENT}; import sys; print('verifiers' in sys.modules)"

    done = run(program, OTEL_INTERCEPT_FILE=str(tmp_path / "spans"), **QUIET)

    assert done.stdout.split() == ["True", "BoundFunctionWrapper", "False"]
    assert done.stderr == ""


def test_a_bad_variable_is_raised_at_who_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By hand a mistake in the environment is an error, which leaves nothing behind."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", SECRET)

    with pytest.raises(ConfigurationError) as raised:
        VerifiersInstrumentor().instrument()

    assert SECRET not in str(raised.value)
    assert not VerifiersInstrumentor().is_instrumented_by_opentelemetry


def test_a_bad_variable_does_not_break_the_host() -> None:
    """Under opentelemetry-instrument it is one WARNING, without the value."""
    program = INSTRUMENT.replace("instrument();", "instrument(skip_dep_check=True);")

    done = run(program, **{**QUIET, "OTEL_TRACES_EXPORTER": SECRET})

    assert done.stdout.split() == ["False", "function"]
    (line,) = done.stderr.splitlines()
    assert line.startswith("WARNING verifiers is not instrumented: OTEL_TRACES_EXPORT")
    assert SECRET not in line


def test_it_is_found_by_its_entry_point() -> None:
    """opentelemetry-instrument needs no further word."""
    (entry,) = importlib.metadata.entry_points(
        group="opentelemetry_instrumentor", name="verifiers"
    )

    assert entry.load() is VerifiersInstrumentor


def test_opentelemetry_instrument_is_enough(tmp_path: Path) -> None:
    """An unmodified program under it exports its rollouts when it exits."""
    program = "from tests.worker_targets import ends; ends()"
    spans = tmp_path / "spans"

    done = run(
        program,
        str(Path(sys.executable).with_name("opentelemetry-instrument")),
        OTEL_INTERCEPT_FILE=str(spans),
        OTEL_PYTHON_CONFIGURATOR="none",
        **QUIET,
    )

    assert done.returncode == 0, done.stderr
    assert outcomes_in(spans) == ["aborted"]


def test_sigterm_exports_and_kills(tmp_path: Path) -> None:
    """A process that would die of SIGTERM still does, and exports before."""
    spans = tmp_path / "spans"
    program = (
        "from otel_intercept.instrumentation.verifiers import VerifiersInstrumentor;"
        "VerifiersInstrumentor().instrument();"
        "from tests.worker_targets import is_terminated; is_terminated()"
    )

    done = run(program, OTEL_INTERCEPT_FILE=str(spans), **QUIET)

    assert done.returncode == -signal.SIGTERM
    assert outcomes_in(spans) == ["aborted"]


def test_sigterm_of_the_host_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that is there stays; without one, ours is gone with us."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_INTERCEPT_FILE", os.devnull)
    seen = []
    before = signal.getsignal(signal.SIGTERM)
    try:
        for handler in (signal.SIG_DFL, signal.SIG_IGN):
            signal.signal(signal.SIGTERM, handler)
            VerifiersInstrumentor().instrument()
            seen.append(signal.getsignal(signal.SIGTERM))
            VerifiersInstrumentor().uninstrument()
            seen.append(signal.getsignal(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)

    assert callable(seen[0])
    assert seen[1:] == [signal.SIG_DFL, signal.SIG_IGN, signal.SIG_IGN]


@pytest.mark.parametrize(
    ("kind", "target", "code"),
    [
        (SpawnProcess, worker_targets.ends, 0),
        (SpawnProcess, worker_targets.is_terminated, -signal.SIGTERM),
        # Its processes end without running what is registered for the exit.
        (ForkServerProcess, worker_targets.fails, 1),
    ],
    ids=["ends", "is_terminated", "fails"],
)
def test_a_spawned_worker_exports_however_it_ends(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[SpawnProcess | ForkServerProcess],
    target: Callable[[], None],
    code: int,
) -> None:
    """What was open in a worker is exported: it returns, raises or is killed."""
    for name, value in (QUIET | {"OTEL_INTERCEPT_FILE": str(tmp_path / "f")}).items():
        monkeypatch.setenv(name, value)

    process = kind(target=Worker(target, Options(), begin_worker))
    process.start()
    process.join(60)

    assert process.exitcode == code
    assert outcomes_in(tmp_path / "f") == ["aborted"]
    assert SECRET not in (tmp_path / "f").read_text()


def test_only_what_verifiers_spawns_is_a_worker(recorder: TelemetryRecorder) -> None:
    """Other targets, and other ways to start a process, are left as they are."""
    host = Host(recorder.telemetry, Options())
    patches = Patches()
    patch(patches, host, begin_worker)

    class Theirs:
        __module__ = "verifiers.somewhere"

        def __call__(self) -> None: ...

    theirs = Theirs()
    targets = [
        vars(process)["_target"]
        for process in (
            SpawnProcess(target=theirs),
            SpawnProcess(None, theirs, "a name"),
            SpawnProcess(target=worker_targets.ends),
            ForkProcess(target=theirs),
            SpawnProcess(),
        )
    ]
    patches.undo()
    after = vars(SpawnProcess(target=theirs))["_target"]

    ours = Worker(theirs, Options(), begin_worker)
    assert targets == [ours, ours, worker_targets.ends, theirs, None]
    assert after is theirs


def test_a_second_call_changes_nothing(
    recorder: TelemetryRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    """There is one instrumentor per process, and it says that it is at work."""
    VerifiersInstrumentor().instrument(telemetry=recorder.telemetry)
    try:
        with caplog.at_level(logging.WARNING):
            VerifiersInstrumentor().instrument(telemetry=recorder.telemetry)
    finally:
        VerifiersInstrumentor().uninstrument()

    assert caplog.messages == ["Attempting to instrument while already instrumented"]
