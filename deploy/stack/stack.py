"""Put the engines together: which files they read, on which ports, in which order."""

import contextlib
import json
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

from deploy.stack.engine import Engine
from deploy.stack.tools import ROOT, Tools

HOST: Final = "127.0.0.1"

COLLECTOR_CONFIG: Final = ROOT / "collector-config.yaml"
AGENT_CONFIG: Final = ROOT / "deploy" / "collector-agent.yaml"
GATEWAY_CONFIG: Final = ROOT / "deploy" / "collector-gateway.yaml"
JAEGER_CONFIG: Final = ROOT / "deploy" / "jaeger.yaml"
PROMETHEUS_CONFIG: Final = ROOT / "deploy" / "prometheus.yml"
RULES: Final = ROOT / "dashboards" / "alerts"
ALERTMANAGER_CONFIG: Final = ROOT / "deploy" / "alertmanager.yml"

_INTERVAL: Final = re.compile(r"(?<=_interval: )5s$", re.MULTILINE)


class Ports(NamedTuple):
    """Where everything listens on loopback; the defaults are those of the files."""

    otlp_grpc: int = 4317
    otlp_http: int = 4318
    health: int = 13133
    telemetry: int = 8888
    metrics: int = 8889
    jaeger_otlp: int = 14317
    jaeger_query: int = 16686
    jaeger_query_grpc: int = 16685
    jaeger_telemetry: int = 8887
    prometheus: int = 9090
    alertmanager: int = 9093


class Stack:
    """Collector, Jaeger, Prometheus and Alertmanager on this machine.

    A context manager: starts all, and ends all in the reverse order.

    Args:
        tools: The programs.
        directory: Where storage, logs and generated files go.
        ports: Where they listen.
        rules: The directory with the rule files for Prometheus.
        alertmanager: The configuration of Alertmanager.
        interval: How often Prometheus scrapes and evaluates.
    """

    def __init__(
        self,
        tools: Tools,
        directory: Path,
        ports: Ports,
        *,
        rules: Path = RULES,
        alertmanager: Path = ALERTMANAGER_CONFIG,
        interval: str = "5s",
    ) -> None:
        self.ports = ports
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.jaeger = jaeger_engine(tools, directory, ports)
        self.collector = collector_engine(tools, directory, ports)
        self.alertmanager = _alertmanager(tools, directory, ports, alertmanager)
        config = _write_prometheus(directory / "prometheus", ports, rules, interval)
        self.prometheus = _prometheus(tools, directory, ports, config)

    @property
    def engines(self) -> tuple[Engine, ...]:
        """All engines, in the order in which they start."""
        return (self.jaeger, self.collector, self.alertmanager, self.prometheus)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            for engine in self.engines:
                undo.callback(engine.stop)
                engine.start()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for engine in reversed(self.engines):
            engine.stop()


def free_ports() -> Ports:
    """Return ports that nobody listens on now, all different."""
    with _reserved(len(Ports._fields)) as numbers:
        return Ports(*numbers)


def collector_engine(
    tools: Tools,
    directory: Path,
    ports: Ports,
    *,
    name: str = "collector",
    configs: Sequence[Path] = (COLLECTOR_CONFIG,),
    **environment: str,
) -> Engine:
    """Return a collector that runs the shipped configuration, not yet started.

    Args:
        tools: The programs.
        directory: Where its storage and log go, under its name.
        ports: Where it listens, and where Jaeger does.
        name: What it is called; several in one directory need several names.
        configs: The configuration files, later ones laid over earlier ones.
        environment: Further knobs.
    """
    return Engine(
        name=name,
        command=[
            str(tools.collector),
            *(f"--config={config}" for config in configs),
        ],
        ready=f"http://{HOST}:{ports.health}/",
        log=directory / f"{name}.log",
        url=f"http://{HOST}:{ports.otlp_http}",
        environment={
            "OTELCOL_GRPC_ENDPOINT": f"{HOST}:{ports.otlp_grpc}",
            "OTELCOL_HTTP_ENDPOINT": f"{HOST}:{ports.otlp_http}",
            "OTELCOL_GATEWAY_ENDPOINT": f"{HOST}:{ports.otlp_grpc}",
            "OTELCOL_HEALTH_ENDPOINT": f"{HOST}:{ports.health}",
            "OTELCOL_PROMETHEUS_ENDPOINT": f"{HOST}:{ports.metrics}",
            "OTELCOL_TELEMETRY_PORT": f"{ports.telemetry}",
            "OTELCOL_TRACES_ENDPOINT": f"{HOST}:{ports.jaeger_otlp}",
            "OTELCOL_STORAGE_DIR": str(directory / f"{name}-storage"),
            **environment,
        },
    )


def jaeger_engine(tools: Tools, directory: Path, ports: Ports) -> Engine:
    """Return a Jaeger that runs the shipped configuration, not yet started."""
    return Engine(
        name="jaeger",
        command=[str(tools.jaeger), f"--config={JAEGER_CONFIG}"],
        ready=f"http://{HOST}:{ports.jaeger_query}/api/services",
        log=directory / "jaeger.log",
        url=f"http://{HOST}:{ports.jaeger_query}",
        environment={
            "JAEGER_OTLP_ENDPOINT": f"{HOST}:{ports.jaeger_otlp}",
            "JAEGER_QUERY_ENDPOINT": f"{HOST}:{ports.jaeger_query}",
            "JAEGER_QUERY_GRPC_ENDPOINT": f"{HOST}:{ports.jaeger_query_grpc}",
            "JAEGER_TELEMETRY_PORT": f"{ports.jaeger_telemetry}",
            "JAEGER_STORAGE_DIR": str(directory / "jaeger-storage"),
            # It would send spans of its own to port 4317: into our collector.
            "OTEL_TRACES_SAMPLER": "always_off",
        },
    )


def _prometheus(tools: Tools, directory: Path, ports: Ports, config: Path) -> Engine:
    url = f"http://{HOST}:{ports.prometheus}"
    return Engine(
        name="prometheus",
        command=[
            str(tools.prometheus),
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'prometheus-storage'}",
            f"--web.listen-address={HOST}:{ports.prometheus}",
            "--enable-feature=exemplar-storage",
            "--web.enable-lifecycle",
            "--log.level=warn",
        ],
        ready=f"{url}/-/ready",
        log=directory / "prometheus.log",
        url=f"{url}/classic/graph",
    )


def _alertmanager(tools: Tools, directory: Path, ports: Ports, config: Path) -> Engine:
    url = f"http://{HOST}:{ports.alertmanager}"
    return Engine(
        name="alertmanager",
        command=[
            str(tools.alertmanager),
            f"--config.file={config}",
            f"--storage.path={directory / 'alertmanager-storage'}",
            f"--web.listen-address={HOST}:{ports.alertmanager}",
            # Alone: it would otherwise gossip on every interface.
            "--cluster.listen-address=",
        ],
        ready=f"{url}/-/ready",
        log=directory / "alertmanager.log",
        url=f"{url}/api/v2/alerts",
    )


def _write_prometheus(
    directory: Path, ports: Ports, rules: Path, interval: str
) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    targets = directory / "targets"
    targets.mkdir(parents=True)
    (directory / "rules").symlink_to(rules)
    for name, numbers in (
        ("rollouts", (ports.metrics,)),
        ("stack", (ports.telemetry, ports.jaeger_telemetry)),
        ("alertmanager", (ports.alertmanager,)),
    ):
        content = [{"targets": [f"{HOST}:{number}" for number in numbers]}]
        (targets / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    text = PROMETHEUS_CONFIG.read_text(encoding="utf-8")
    config = directory / "prometheus.yml"
    config.write_text(_INTERVAL.sub(interval, text), encoding="utf-8")
    return config


@contextlib.contextmanager
def _reserved(count: int) -> Iterator[list[int]]:
    # All open at once, so that no number comes twice.
    with contextlib.ExitStack() as stack:
        listeners = [
            stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)
        ]
        yield [listener.getsockname()[1] for listener in listeners]
