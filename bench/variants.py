"""What is measured: this library's variants and its peers, and where each runs."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, get_args

from bench.processes import ROOT
from otel_intercept.settings import Settings

BARE: Final = "bare"
OURS: Final = ("off", "unsampled", "thread", "process")
OWN_SERVER: Final = ("server-off", "server-thread", "server-process")
"""Our server, with its own stream writer, in place of the handler that all have."""

VERIFIERS: Final = ("verifiers", "verifiers-thread", "verifiers-process")
"""Their legacy server, plain and with our instrumentor."""

PEERS: Final = ("contrib", "logfire", "sentry", "ddtrace", "elastic")
ALL: Final = (BARE, *OURS, *OWN_SERVER, *VERIFIERS, *PEERS)

_HOMES: Final = ROOT / ".venv-bench"


def python_of(variant: str) -> Path:
    """Return the interpreter of the environment that a variant runs in."""
    if variant in PEERS:
        return _HOMES / variant / "bin" / "python"
    return Path(sys.executable)


def requirements_of(peer: str) -> Path:
    """Return the file that pins what a peer's environment holds."""
    return ROOT / "bench" / "requirements" / f"{peer}.txt"


def missing(variant: str) -> str | None:
    """Return why a variant cannot be measured here, or None."""
    if variant in PEERS and not python_of(variant).exists():
        return "its environment is not set up: make .venv-bench"
    recorders = get_args(Settings.__annotations__["recorder"])
    if variant.endswith("process") and "process" not in recorders:
        return "the settings do not accept recorder=process"
    return None


def available(variants: Iterable[str]) -> list[str]:
    """Leave out, aloud, what cannot be measured here."""
    able: list[str] = []
    for variant in variants:
        reason = missing(variant)
        if reason is None:
            able.append(variant)
        else:
            print(f"SKIPPED {variant}: {reason}", file=sys.stderr)
    return able
