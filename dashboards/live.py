"""Start real engines on free loopback ports, and fill them with real rollouts.

The way is that of production: OTLP to a collector, which Prometheus scrapes. The
collector's own figures are scraped as well.
"""

import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from dashboards.exposed import play_for
from otel_intercept.sdk import configure

LOOPBACK: Final = "127.0.0.1"
SERVICE: Final = "otel-intercept-demo"
ENVIRONMENT: Final = "demo"
COLLECTOR_VARIABLE: Final = "OTELCOL"
_ROOT: Final = Path(__file__).parent.parent
_START_S: Final = 30.0
_SCRAPE_S: Final = 1


class EngineMissingError(RuntimeError):
    """A program that is needed is not installed, or did not come up."""


@dataclass(frozen=True, slots=True)
class Live:
    """Engines that run.

    Args:
        prometheus: The base URL of Prometheus.
        otlp: Where the collector takes OTLP over HTTP.
    """

    prometheus: str
    otlp: str

    def play(self, seconds: float) -> None:
        """Play rollouts as a process of its own would, and leave its last figures."""
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp,
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
            "OTEL_RESOURCE_ATTRIBUTES": f"deployment.environment.name={ENVIRONMENT}",
        }
        with configure(environ, service_name=SERVICE) as telemetry:
            play_for(telemetry, seconds)
            time.sleep(3 * _SCRAPE_S)


def collector_binary() -> Path:
    """Return the collector to use: ``OTELCOL``, or what the stack has built.

    Raises:
        EngineMissingError: There is none.
    """
    named = os.environ.get(COLLECTOR_VARIABLE)
    if named:
        return Path(named)
    for folder in sorted((_ROOT / ".cache" / "stack").glob("otelcol-intercept-*")):
        for path in (folder, *folder.glob("*")):
            if path.is_file() and os.access(path, os.X_OK):
                return path
    raise EngineMissingError("no collector: build it, or name one in OTELCOL")


@contextmanager
def live(folder: Path) -> Iterator[Live]:
    """Run a collector and Prometheus until the block ends.

    Args:
        folder: Where they may keep their data.

    Raises:
        EngineMissingError: An engine is missing or did not come up.
    """
    otlp, onward, metrics, own, web = _free_ports(5)
    collector = folder / "collector.yaml"
    collector.write_text(yaml.safe_dump(_collector(otlp, onward, metrics, own)))
    prometheus = folder / "prometheus.yml"
    prometheus.write_text(yaml.safe_dump(_prometheus(metrics, own)))
    with ExitStack() as stack:
        stack.enter_context(
            _running(folder, [str(collector_binary()), f"--config={collector}"])
        )
        stack.enter_context(
            _running(
                folder,
                [
                    _program("prometheus"),
                    f"--config.file={prometheus}",
                    f"--storage.tsdb.path={folder / 'tsdb'}",
                    f"--web.listen-address={LOOPBACK}:{web}",
                    "--enable-feature=exemplar-storage",
                    "--log.level=warn",
                ],
            )
        )
        _wait_for(f"http://{LOOPBACK}:{web}/-/ready")
        _wait_for(f"http://{LOOPBACK}:{own}/metrics")
        yield Live(f"http://{LOOPBACK}:{web}", f"http://{LOOPBACK}:{otlp}")


def fetch(url: str, parameters: Mapping[str, str]) -> bytes:
    """Return what an engine on loopback answers.

    Raises:
        ValueError: The address is not on loopback.
    """
    if not url.startswith(f"http://{LOOPBACK}:"):
        raise ValueError("only loopback is asked")
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{url}?{query}", timeout=30) as answer:  # noqa: S310 - loopback, above
        body = answer.read()
    return bytes(body)


def _collector(otlp: int, onward: int, metrics: int, own: int) -> dict[str, object]:
    # Traces take one hop more, so that there is an exporter with a queue to look at.
    return {
        "receivers": {
            "otlp": {"protocols": {"http": {"endpoint": f"{LOOPBACK}:{otlp}"}}},
            "otlp/onward": {
                "protocols": {"grpc": {"endpoint": f"{LOOPBACK}:{onward}"}}
            },
        },
        "exporters": {
            "otlp_grpc": {
                "endpoint": f"{LOOPBACK}:{onward}",
                "tls": {"insecure": True},
            },
            "prometheus": {
                "endpoint": f"{LOOPBACK}:{metrics}",
                "enable_open_metrics": True,
                "resource_constant_labels": {
                    "included": ["deployment.environment.name"]
                },
            },
        },
        "connectors": {"span_metrics": {}},
        "service": {
            "telemetry": {
                "metrics": {
                    "readers": [
                        {
                            "pull": {
                                "exporter": {
                                    "prometheus": {"host": LOOPBACK, "port": own}
                                }
                            }
                        }
                    ]
                }
            },
            "pipelines": {
                "traces": {"receivers": ["otlp"], "exporters": ["otlp_grpc"]},
                "traces/onward": {
                    "receivers": ["otlp/onward"],
                    "exporters": ["span_metrics"],
                },
                "metrics": {
                    "receivers": ["otlp", "span_metrics"],
                    "exporters": ["prometheus"],
                },
            },
        },
    }


def _prometheus(metrics: int, own: int) -> dict[str, object]:
    return {
        "global": {"scrape_interval": f"{_SCRAPE_S}s"},
        "scrape_configs": [
            {
                "job_name": "otel_intercept",
                "honor_labels": True,
                "static_configs": [{"targets": [f"{LOOPBACK}:{metrics}"]}],
            },
            {
                "job_name": "collector",
                "static_configs": [{"targets": [f"{LOOPBACK}:{own}"]}],
            },
        ],
    }


@contextmanager
def _running(folder: Path, command: Sequence[str]) -> Iterator[None]:
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise EngineMissingError(f"{name} is not installed")
    return found


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for item in sockets:
            item.bind((LOOPBACK, 0))
        return [item.getsockname()[1] for item in sockets]


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        try:
            fetch(url, {})
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise EngineMissingError("an engine did not come up: see its log")
