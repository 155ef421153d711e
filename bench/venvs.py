"""Give each peer a virtual environment of its own: ``python -m bench.venvs``.

The peers have the releases of ``bench/requirements``, and all have the aiohttp that
this library runs with here.
"""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.processes import BenchError
from bench.variants import PEERS, python_of, requirements_of

_SAME: Final = ("aiohttp", "aiosignal", "frozenlist", "multidict", "propcache", "yarl")


def set_up(peer: str) -> bool:
    """Make or update one environment; tell whether there was anything to do.

    Raises:
        BenchError: Something cannot be installed.
    """
    python = python_of(peer)
    wanted = requirements_of(peer).read_text(encoding="utf-8") + _constraints()
    done = python.parent.parent / "installed.txt"
    if done.exists() and done.read_text(encoding="utf-8") == wanted:
        return False
    _run("-m", "venv", "--without-pip", "--clear", str(done.parent))
    with TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text(_constraints(), encoding="utf-8")
        _run(
            *("-m", "pip", "--python", str(python), "install", "--quiet"),
            *("--disable-pip-version-check", "--constraint", str(constraints)),
            *("--requirement", str(requirements_of(peer)), "aiohttp"),
        )
    done.write_text(wanted, encoding="utf-8")
    return True


def _constraints() -> str:
    return "".join(f"{name}=={version(name)}\n" for name in _SAME)


def _run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], check=False)
    if done.returncode != 0:
        raise BenchError("a peer's environment cannot be made")


def main() -> None:
    """Set all of them up."""
    try:
        for peer in PEERS:
            print(f"{peer}: {'installed' if set_up(peer) else 'is there'}", flush=True)
    except BenchError as problem:
        sys.exit(f"bench: {problem}")


if __name__ == "__main__":
    main()
