"""Find, install or build the programs of the stack, and say aloud what is done.

The collector is built from our manifest and Jaeger from its published module, into a
cache below the repository that is keyed by what decides the binary; Prometheus and
Alertmanager come from Debian's packages. With a warm cache nothing is downloaded.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

ROOT: Final = Path(__file__).parent.parent.parent
CACHE: Final = Path(
    os.environ.get("OTEL_INTERCEPT_STACK_CACHE") or ROOT / ".cache" / "stack"
)
"""Below the repository, unless the variable names a place that outlives the clone."""

MANIFEST: Final = ROOT / "deploy" / "collector" / "builder-config.yaml"

BUILDER: Final = "go.opentelemetry.io/collector/cmd/builder@v0.161.0"
JAEGER: Final = "github.com/jaegertracing/jaeger/cmd/jaeger@v1.76.0"
"""Jaeger 2.13: its own v2 tags are no valid Go versions, its module path lacks /v2."""

LDFLAGS: Final = "-s -w -buildid="
GO_ENVIRONMENT: Final = {"CGO_ENABLED": "0", "GOWORK": "off"}
"""What could change the binary is fixed; the rest of the environment is the user's."""

_DEBIAN: Final = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
}
_SHOWN_LINES: Final = 40


class Tools(NamedTuple):
    """The programs of the stack, ready to run."""

    collector: Path
    jaeger: Path
    prometheus: Path
    promtool: Path
    alertmanager: Path
    amtool: Path


def ensure_tools(cache: Path = CACHE) -> Tools:
    """Return all programs; install or build those that are missing.

    Args:
        cache: Where built programs are kept.

    Raises:
        SystemExit: Something cannot be had; the message says what, and what to do.
    """
    debian = ensure_debian()
    return Tools(
        collector=ensure_collector(cache),
        jaeger=ensure_jaeger(cache),
        prometheus=debian["prometheus"],
        promtool=debian["promtool"],
        alertmanager=debian["prometheus-alertmanager"],
        amtool=debian["amtool"],
    )


def ensure_collector(cache: Path = CACHE) -> Path:
    """Return the collector of our manifest; build it if it is not in the cache."""
    key = _key(MANIFEST.read_bytes(), BUILDER.encode())
    return _cached(
        cache / f"otelcol-intercept-{key}", "the collector", _build_collector
    )


def ensure_jaeger(cache: Path = CACHE) -> Path:
    """Return Jaeger; build it if it is not in the cache."""
    return _cached(cache / f"jaeger-{_key(JAEGER.encode())}", "Jaeger", _build_jaeger)


def ensure_debian() -> dict[str, Path]:
    """Return Prometheus, Alertmanager and their tools; install missing packages.

    No service is started: the programs are only put in their place.
    """
    missing = sorted(
        {package for name, package in _DEBIAN.items() if shutil.which(name) is None}
    )
    if missing:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            _refuse(
                f"not installed: {' '.join(missing)}. Install them so that "
                f"{', '.join(_DEBIAN)} are on the PATH; as root on Debian this "
                "program does it by itself"
            )
        _say(f"installing {' '.join(missing)} (no service is started)")
        # Their own scripts would start a server wherever there is an init system.
        policy = Path("/usr/sbin/policy-rc.d")
        shut = not policy.exists()
        if shut:
            policy.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
            policy.chmod(0o755)
        try:
            apt = {"DEBIAN_FRONTEND": "noninteractive"}
            install = ["apt-get", "-qq", "install", "-y", "--no-install-recommends"]
            _run(["apt-get", "-qq", "update"], extra=apt)
            _run([*install, *missing], extra=apt)
        finally:
            if shut:
                policy.unlink()
    return {name: _which(name) for name in _DEBIAN}


def build_collector(binary: Path, work: Path) -> None:
    """Build the collector of our manifest, in any empty directory.

    Args:
        binary: Where it is put.
        work: Where the builder and the generated sources are kept meanwhile.
    """
    _go(["install", "-trimpath", BUILDER], work, {"GOBIN": str(work / "bin")})
    _run(
        [
            str(work / "bin" / "builder"),
            "--config",
            str(MANIFEST),
            "--ldflags",
            LDFLAGS,
        ],
        cwd=work,
        extra=GO_ENVIRONMENT,
    )
    shutil.move(work / "build" / "otelcol-intercept", binary)


def sha256_of(path: Path) -> str:
    """Return the digest of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build_collector(binary: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="otelcol-build-") as work:
        build_collector(binary, Path(work))


def _build_jaeger(binary: Path) -> None:
    # Its go.mod has a replace directive, so that `go install` refuses it; as a
    # dependency of an empty module it is built all the same.
    with tempfile.TemporaryDirectory(prefix="jaeger-build-") as name:
        work = Path(name)
        _go(["mod", "init", "jaeger-tool"], work)
        _go(["get", "-tool", JAEGER], work)
        package = JAEGER.partition("@")[0]
        _go(
            ["build", "-trimpath", "-ldflags", LDFLAGS, "-o", str(binary), package],
            work,
        )


def _cached(binary: Path, what: str, build: Callable[[Path], None]) -> Path:
    if binary.exists():
        return binary
    binary.parent.mkdir(parents=True, exist_ok=True)
    _say(f"building {what}: some minutes and 2 GB of Go's own caches, once")
    started = time.monotonic()
    # A name of its own, so that two builds at once cannot leave half a program.
    part = binary.with_name(f"{binary.name}.{os.getpid()}.part")
    try:
        build(part)
        part.rename(binary)
    finally:
        part.unlink(missing_ok=True)
    size = binary.stat().st_size / 1e6
    _say(f"built {what} in {time.monotonic() - started:.0f} s, {size:.0f} MB")
    return binary


def _key(*parts: bytes) -> str:
    version = subprocess.run(
        [_which("go"), "env", "GOVERSION", "GOOS", "GOARCH"],
        capture_output=True,
        check=True,
        cwd=ROOT,
    ).stdout
    digest = hashlib.sha256(b"\0".join((version, LDFLAGS.encode(), *parts)))
    return digest.hexdigest()[:16]


def _go(
    arguments: Sequence[str], work: Path, extra: dict[str, str] | None = None
) -> None:
    _run(
        [str(_which("go")), *arguments], cwd=work, extra=GO_ENVIRONMENT | (extra or {})
    )


def _run(
    command: Sequence[str], *, cwd: Path = ROOT, extra: dict[str, str] | None = None
) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | (extra or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        print(*done.stdout.splitlines()[-_SHOWN_LINES:], sep="\n", file=sys.stderr)
        _refuse(f"failed with {done.returncode}: {' '.join(command[:3])} …, see above")


def _which(name: str) -> Path:
    path = shutil.which(name)
    if path is None:
        if name == "go":
            _refuse("go 1.26 or later is needed to build the collector and Jaeger")
        _refuse(f"{name} is not on the PATH")
    return Path(path)


def _say(text: str) -> None:
    print(f"stack: {text}", file=sys.stderr, flush=True)


def _refuse(text: str) -> NoReturn:
    sys.exit(f"stack: {text}")


if __name__ == "__main__":
    print(*ensure_tools(), sep="\n")
