"""The collector's files against catalogue and manifest: nothing drifts apart."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deploy.stack import tools
from otel_intercept import catalogue, semconv

ROOT = Path(__file__).parent.parent
CONFIGS = (
    "collector-config.yaml",
    "deploy/collector-agent.yaml",
    "deploy/collector-gateway.yaml",
    "deploy/collector-kafka.yaml",
)
SECTIONS = ("receivers", "processors", "exporters", "connectors", "extensions")

WHO = {
    "service.name",
    "service.namespace",
    "service.version",
    "service.instance.id",
    "deployment.environment.name",
    "telemetry.sdk.language",
    "telemetry.sdk.name",
    "telemetry.sdk.version",
}
DEMO = {"demo.scripted", "demo.host", "demo.fault"}

# What the manifest calls a component against the name that a configuration uses.
MODULES = {
    "otlp": "otlpreceiver",
    "otlp_grpc": "otlpexporter",
    "memory_limiter": "memorylimiterprocessor",
    "filter": "filterprocessor",
    "transform": "transformprocessor",
    "redaction": "redactionprocessor",
    "delta_to_cumulative": "deltatocumulativeprocessor",
    "tail_sampling": "tailsamplingprocessor",
    "forward": "forwardconnector",
    "span_metrics": "spanmetricsconnector",
    "count": "countconnector",
    "prometheus": "prometheusexporter",
    "load_balancing": "loadbalancingexporter",
    "health_check": "healthcheckextension",
    "file_storage": "filestorage",
}
NOT_BUILT = {"kafka"}

Tree = dict[str, "Node"]
Node = Tree | list["Node"] | str | int | float | bool | None


def read(name: str) -> Tree:
    """Return a YAML file as a tree."""
    tree: Tree = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return tree


def at(tree: Node, *path: str) -> Node:
    """Return what stands at a path of keys."""
    for key in path:
        assert isinstance(tree, dict)
        tree = tree[key]
    return tree


def keys_at(tree: Node, *path: str) -> set[str]:
    """Return the keys of the mapping at a path; none where there is no mapping."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return set(tree) if isinstance(tree, dict) else set()


def texts_at(tree: Node, *path: str) -> list[str]:
    """Return the list of texts at a path."""
    found = at(tree, *path)
    assert isinstance(found, list)
    return [item for item in found if isinstance(item, str)]


def components() -> Iterator[str]:
    """Yield the type of every component that a configuration names."""
    for config in CONFIGS:
        for section in SECTIONS:
            for name in keys_at(read(config), section):
                yield name.partition("/")[0]


def seconds(duration: str) -> float:
    """Return a duration of the collector, such as ``250ms``, in seconds."""
    found = re.fullmatch(r"([\d.]+)(ms|s)", duration)
    assert found is not None
    number, unit = found.groups()
    return float(number) / (1000 if unit == "ms" else 1)


def test_the_allow_list_has_every_key_that_we_send_and_no_other() -> None:
    """A renamed or new attribute has to be let through, and an old one no longer."""
    ours = catalogue.SPAN_ATTRIBUTES | {
        label for item in semconv.INSTRUMENTS for label in item.labels
    }

    allowed = texts_at(
        read("collector-config.yaml"),
        "processors", "redaction/allow_list", "allowed_keys",
    )  # fmt: skip

    assert set(allowed) == ours | WHO | DEMO
    assert len(allowed) == len(set(allowed))


def test_only_metrics_of_the_catalogue_pass() -> None:
    """A renamed or new instrument has to be let through, and an old one no longer."""
    conditions = texts_at(
        read("collector-config.yaml"), "processors", "filter/ours", "metric_conditions"
    )

    named = {name for text in conditions for name in re.findall(r'!= "(.*?)"', text)}

    assert named - {""} == {
        semconv.SCOPE_NAME,
        *(item.name for item in semconv.INSTRUMENTS),
    }


def test_the_buckets_of_exchange_spans_are_those_of_the_instrument() -> None:
    """Latencies from spans and from metrics can be compared bucket by bucket."""
    buckets = texts_at(
        read("collector-config.yaml"),
        "connectors", "span_metrics", "histogram", "explicit", "buckets",
    )  # fmt: skip

    assert tuple(map(seconds, buckets)) == semconv.EXCHANGE_DURATION.buckets


def test_dimensions_are_keys_that_pass() -> None:
    """What the connectors turn into labels exists behind the fences."""
    config = read("collector-config.yaml")
    spans = at(config, "connectors", "span_metrics", "dimensions")
    events = at(
        config,
        "connectors", "count", "spanevents", "intercept.failure.events", "attributes",
    )  # fmt: skip
    assert isinstance(spans, list)
    assert isinstance(events, list)

    keys = {at(item, "name") for item in spans} | {at(item, "key") for item in events}

    assert keys <= catalogue.SPAN_ATTRIBUTES
    assert semconv.ERROR_TYPE in keys


def test_the_fences_know_our_scope_and_events() -> None:
    """What the fences take for ours is what the library calls itself."""
    text = (ROOT / "collector-config.yaml").read_text(encoding="utf-8")

    scopes = set(re.findall(r'scope\.name [!=]= "(.*?)"', text))
    events = set(re.findall(r'spanevent\.name [!=]= "(.*?)"', text))

    assert scopes == {semconv.SCOPE_NAME}
    assert events == {semconv.EVENT_EXCEPTION}


def test_the_gateway_knows_the_root() -> None:
    """Whether a rollout has ended is told by the span that ends it."""
    text = (ROOT / "deploy/collector-gateway.yaml").read_text(encoding="utf-8")

    assert f'span.name == "{semconv.SPAN_ROLLOUT}"' in text


@pytest.mark.parametrize("pipeline", ["traces", "metrics"])
def test_both_fences_stand_before_every_exit(pipeline: str) -> None:
    """Nothing that comes in gets out or into a connector but through both fences."""
    config = read("collector-config.yaml")

    processors = texts_at(config, "service", "pipelines", pipeline, "processors")

    assert processors[0] == "memory_limiter"
    assert processors[-2:] == ["transform/redact", "redaction/allow_list"]


def test_only_the_fenced_pipelines_take_data_from_outside() -> None:
    """A further pipeline at the receiver would be a way around the fences."""
    pipelines = at(read("collector-config.yaml"), "service", "pipelines")
    assert isinstance(pipelines, dict)

    taking = {
        name
        for name, pipeline in pipelines.items()
        if "otlp" in texts_at(pipeline, "receivers")
    }

    assert taking == {"traces", "metrics"}


def test_the_manifest_has_what_the_configurations_name_and_no_more() -> None:
    """The distribution is minimal, and no configuration names what it lacks."""
    manifest = (ROOT / "deploy/collector/builder-config.yaml").read_text("utf-8")
    built = set(re.findall(r"gomod: \S+/(\w+) v0\.", manifest))

    named = {MODULES[name] for name in components() if name not in NOT_BUILT}

    assert named == built


def test_one_release_is_pinned() -> None:
    """Components of different releases are not mixed; the builder is of theirs."""
    manifest = (ROOT / "deploy/collector/builder-config.yaml").read_text("utf-8")

    versions = set(re.findall(r"gomod: \S+ (v0\S+)", manifest))
    _, _, builder = tools.BUILDER.partition("@")

    assert versions == {builder}


def test_the_container_builds_as_the_machine_does() -> None:
    """Builder and linker flags of the Dockerfile are those that are tested."""
    docker = (ROOT / "deploy/collector/Dockerfile").read_text("utf-8")

    assert f"go install -trimpath {tools.BUILDER}\n" in docker
    assert f'--ldflags "{tools.LDFLAGS}"' in docker
    for name, value in tools.GO_ENVIRONMENT.items():
        assert f"{name}={value}" in docker


@pytest.mark.parametrize("config", CONFIGS)
def test_every_component_says_why_it_is_there(config: str) -> None:
    """A comment stands right above each component."""
    lines = (ROOT / config).read_text(encoding="utf-8").splitlines()
    section = ""
    bare = []
    for before, line in itertools.pairwise(lines):
        if re.match(r"\w", line):
            section = line.rstrip(":")
        elif section in SECTIONS and re.match(r"  [\w/]+:", line):
            commented = before.lstrip().startswith("#")
            bare += [] if commented else [line.strip()]

    assert bare == []


@pytest.mark.parametrize("config", CONFIGS)
def test_nothing_listens_beyond_loopback_by_default(config: str) -> None:
    """Opening a port to the network is a decision that nobody takes by accident."""
    text = (ROOT / config).read_text(encoding="utf-8")

    endpoints = re.findall(r"(?:endpoint|host): (.*)", text)

    assert [line for line in endpoints if ":-127.0.0.1" not in line] == []
