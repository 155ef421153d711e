"""The terminal program as such: help, mistakes in one line, exit codes, plain text."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from otel_intercept.cli import main
from otel_intercept.cli.output import console, invocation, printable, sentence_of

ROOT = Path(__file__).parent.parent
CANARY = "sk-canary-93b1e6"
NAMES = ("demo", "explain", "report", "serve", "doctor")


def program(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run the real program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "otel_intercept", *arguments],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command in this process that must be refused; return the line it prints."""
    code = main(arguments)
    printed = capsys.readouterr()

    assert code == 2
    assert printed.out == ""
    assert printed.err.startswith("otel-intercept: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(
    "command",
    [(), ("demo",), ("explain",), ("report",), ("serve",), ("doctor",)],
)
def test_help_teaches_the_tool(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """Each help goes to standard output, fits 80 columns and exits with 0."""
    with pytest.raises(SystemExit) as exited:
        main([*command, "--help"])
    help_text = capsys.readouterr().out

    assert exited.value.code == 0
    assert "usage: otel-intercept" in help_text
    assert max(map(len, help_text.splitlines())) <= 80


def test_the_help_names_every_command_and_variable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The help of the program names its commands, that of serve its variables."""
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    serve = capsys.readouterr().out

    assert all(name in commands for name in NAMES)
    assert "OTEL_INTERCEPT_UPSTREAM_KEY" in serve
    assert "OTEL_INTERCEPT_CONTROL_SECRET" in serve


def test_the_version_is_printed() -> None:
    """The module can be run, says its version, and exits with 0."""
    done = program("--version")

    assert done.returncode == 0
    assert done.stdout.startswith("otel-intercept ")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "required: COMMAND"),
        (("frobnicate",), "COMMAND must be one of"),
        (("demo", "--rollouts", "0"), "--rollouts must be a whole number from 1"),
        (("demo", "--rollouts", "many"), "--rollouts must be a whole number"),
        (("demo", "--rollouts"), "--rollouts: expected one argument"),
        (("demo", "--seed", "-1"), "--seed"),
        (("demo", "--stream-failure", "loud"), "--stream-failure must be one of"),
        (("explain",), "required: ROLLOUT_ID"),
        (("serve",), "required: --upstream"),
        (("serve", "--upstream", "http://h", "--port", "65536"), "from 0 to 65535"),
        (("serve", "--upstream", "http://h", "--idle-close", "0"), "seconds"),
        (("serve", "--upstream", "http://h", "--idle-close", "nan"), "seconds"),
        (("serve", "--upstream", "http://h", "--grace", "soon"), "seconds"),
    ],
)
def test_a_mistake_in_the_arguments_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    """Bad arguments give exit code 2 and a line that names the argument."""
    line = refusal(capsys, *arguments)

    assert words in line
    assert "--help" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("demo", "--api-key", CANARY),
        ("demo", CANARY),
        ("demo", f"--{CANARY}"),
        ("demo", "--rollouts", CANARY),
        ("demo", "--stream-failure", CANARY),
        ("explain", "one", f"--json={CANARY}"),
        ("serve", "--upstream", "http://h", f"--no-check={CANARY}"),
        ("serve", "--upstream", "http://h", "--port", CANARY),
        ("serve", "--upstream", f"http://{CANARY}@h"),
        ("serve", "--upstream", f"http://h/?key={CANARY}"),
        ("serve", "--upstream", f"http://h/#{CANARY}"),
        ("serve", "--upstream", f"ftp://{CANARY}"),
        (CANARY,),
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    """What was typed is never echoed where it cannot be used."""
    line = refusal(capsys, *arguments)

    assert CANARY not in line


def test_a_mistake_of_ours_is_one_line_without_its_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An error that nobody expected gives exit code 70 and its class, no text."""
    code = main(["explain", CANARY, "--file", f"{CANARY}\0"])
    printed = capsys.readouterr()

    assert code == 70
    assert printed.err.count("\n") == 1
    assert "(ValueError)" in printed.err
    assert CANARY not in printed.out + printed.err


def test_the_demo_names_the_packages_it_lacks() -> None:
    """Without the model SDKs the demo gives the pip command and exit code 2."""
    code = (
        "import sys; sys.modules['openai'] = sys.modules['anthropic'] = None\n"
        "from otel_intercept.cli import main\n"
        "sys.exit(main(['demo']))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "openai and anthropic" in done.stderr
    assert "pip install 'otel-intercept[demo]'" in done.stderr


def test_an_interrupt_ends_the_program_in_one_line(tmp_path: Path) -> None:
    """Ctrl-C gives exit code 130 and one line, no traceback."""
    # A shell has the jobs in its background ignore it, and these their children.
    code = (
        "import runpy, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "runpy.run_module('otel_intercept', run_name='__main__')"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code, "demo", "--rollouts", "400"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    file = tmp_path / "otel-intercept-demo.jsonl"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (file.exists() and file.stat().st_size):
        time.sleep(0.05)

    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)

    assert running.returncode == 130
    assert err == "otel-intercept: interrupted\n"


def test_no_color_and_pipes_get_plain_text() -> None:
    """A console that writes to no terminal writes no control codes."""
    target = io.StringIO()

    console(target).print("plain", style="bold red")

    assert target.getvalue() == "plain\n"


def test_a_narrow_encoding_loses_characters_not_the_program() -> None:
    """What the encoding lacks is replaced."""
    raw = io.BytesIO()
    target = io.TextIOWrapper(raw, encoding="ascii")

    console(target).print("one … two")
    target.flush()

    assert raw.getvalue() == b"one ? two\n"


@pytest.mark.parametrize(
    ("exc", "sentence"),
    [
        (FileNotFoundError(errno.ENOENT, CANARY), "no such file or directory"),
        (OSError(errno.EADDRINUSE, CANARY), "the address is in use"),
        (TimeoutError(CANARY), "the connection timed out"),
        (OSError(errno.EDQUOT, CANARY), "the operation failed (EDQUOT)"),
        (OSError(99_999, CANARY), "the operation failed (unknown error)"),
        (OSError(-2, CANARY), "the host name is unknown"),
        (OSError(CANARY), "the operation failed"),
    ],
)
def test_failed_system_calls_get_our_own_words(exc: OSError, sentence: str) -> None:
    """Only the number of an OSError is read."""
    assert sentence_of(exc) == sentence


def test_control_characters_do_not_reach_the_terminal() -> None:
    """What could move the cursor or end a line is replaced."""
    assert printable("a\x1b[2J\nb") == "a?[2J?b"


def test_the_program_says_how_to_call_it_again(tmp_path: Path) -> None:
    """A program that is not on the path is named by its relative one."""
    script = tmp_path / "otel-intercept"

    assert invocation("/x/otel_intercept/__main__.py") == "python -m otel_intercept"
    assert invocation("whatever") == "otel-intercept"
    assert invocation(str(script)).endswith("otel-intercept")
