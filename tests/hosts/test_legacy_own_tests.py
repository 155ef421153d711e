"""Verifiers' own tests of what we hook, from its source release."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

OWN = Path(sys.prefix) / "own"
FILES = (
    "test_interception_utils.py",
    "test_cli_agent_env.py",
    "test_opencode_rlm_env.py",
    "test_env_server.py",
    "test_environment.py",
)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("plugin", [(), ("-p", "instrumented")], ids=["off", "on"])
def test_their_own_tests_pass(plugin: tuple[str, ...]) -> None:
    """What verifiers promises of itself holds with the instrumentor as without."""
    files = [f"tests/{name}" for name in FILES]
    search = {"PYTHONPATH": str(Path(__file__).parent)}

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--no-header", *plugin, *files],
        cwd=OWN,
        env={**os.environ, **search},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-4000:]
    assert int(found(r"(\d+) passed", done.stdout)) > 100
    if plugin:
        assert int(found(r"rollouts seen: (\d+)", done.stdout)) > 0


def found(pattern: str, text: str) -> str:
    """Return the first group of a pattern that must be there."""
    match = re.search(pattern, text)
    assert match is not None, text[-4000:]
    return match[1]
