"""The shipped files as their own programs see them, and the binary as built anew."""

import subprocess
from pathlib import Path

import pytest

from deploy.stack.stack import (
    AGENT_CONFIG,
    ALERTMANAGER_CONFIG,
    COLLECTOR_CONFIG,
    GATEWAY_CONFIG,
    PROMETHEUS_CONFIG,
)
from deploy.stack.tools import Tools, build_collector, sha256_of


def run(*command: str | Path) -> tuple[int, str]:
    """Return the exit code and all output of a command."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "configs",
    [[COLLECTOR_CONFIG], [COLLECTOR_CONFIG, AGENT_CONFIG], [GATEWAY_CONFIG]],
    ids=["single", "agent", "gateway"],
)
def test_the_collector_takes_its_files(tools: Tools, configs: list[Path]) -> None:
    """Each configuration is valid for the shipped binary, with nothing deprecated."""
    arguments = [f"--config={config}" for config in configs]

    code, output = run(tools.collector, "validate", *arguments)

    assert (code, output) == (0, "")


def test_prometheus_and_alertmanager_take_their_files(tools: Tools) -> None:
    """Promtool and amtool find nothing wrong."""
    prometheus = run(
        tools.promtool, "check", "config", "--syntax-only", PROMETHEUS_CONFIG
    )
    alertmanager = run(tools.amtool, "check-config", ALERTMANAGER_CONFIG)

    assert prometheus[0] == 0, prometheus[1]
    assert alertmanager[0] == 0, alertmanager[1]


def test_the_collector_is_built_the_same_anywhere(tools: Tools, tmp_path: Path) -> None:
    """Built again, in another directory, the binary is the same to the last bit."""
    work = tmp_path / "elsewhere"
    work.mkdir()

    build_collector(tmp_path / "otelcol", work)

    assert sha256_of(tmp_path / "otelcol") == sha256_of(tools.collector)
