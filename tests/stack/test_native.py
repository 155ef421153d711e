"""``make stack`` as a person uses it: URLs that work, and nothing left behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from deploy.stack.engine import get
from deploy.stack.tools import Tools
from tests.stack.backends import eventually


@pytest.fixture
def native(tools: Tools, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run it on free ports; the programs are there already."""
    assert tools.collector.exists()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "deploy.stack",
            "--free-ports", "--directory", str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    with process:
        yield process
        process.kill()


def urls_of(process: subprocess.Popen[str]) -> dict[str, str]:
    """Return the URL that is printed for each engine."""
    assert process.stdout is not None
    urls: dict[str, str] = {}
    for line in process.stdout:
        if line.startswith("end it"):
            return urls
        if found := re.match(r"(\w+) +(http://\S+)$", line):
            urls[found[1]] = found[2]
    return urls


def is_up(url: str) -> bool:
    """Tell whether anybody answers."""
    try:
        return get(url).status_code > 0
    except requests.ConnectionError:
        return False


def test_ctrl_c_ends_all(native: subprocess.Popen[str]) -> None:
    """The printed URLs answer until Ctrl-C, and then no more."""
    urls = urls_of(native)
    up = {name for name, url in urls.items() if is_up(url)}

    native.send_signal(signal.SIGINT)
    code = native.wait(timeout=30)

    assert up == {"collector", "jaeger", "prometheus", "alertmanager"}
    assert code == 0
    assert [name for name, url in urls.items() if is_up(url)] == []


def test_no_engine_outlives_a_killed_starter(
    native: subprocess.Popen[str],
) -> None:
    """Killed by force, the starter takes every engine with it."""
    urls = urls_of(native)

    native.kill()
    native.wait()
    left = eventually(
        lambda: [name for name, url in urls.items() if is_up(url)],
        lambda left: not left,
    )

    assert urls
    assert left == []
