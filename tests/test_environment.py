"""Every variable is honoured, and a bad one is named without its value."""

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, TraceIdRatioBased

from otel_intercept.errors import ConfigurationError
from otel_intercept.sdk.environment import Environment, read_environment
from otel_intercept.sdk.target import Target
from otel_intercept.settings import Settings

CANARY = "sk-canary-0451"

build_settings: Callable[..., Settings] = Settings


def read(**environ: str) -> Environment:
    """Read variables that do not disable telemetry."""
    environment = read_environment(environ)
    assert environment is not None
    return environment


def target(**environ: str) -> Target:
    """Read the target of the traces."""
    read_target = read(**environ).traces.target
    assert read_target is not None
    return read_target


def test_without_variables_both_signals_go_to_a_local_collector() -> None:
    """The defaults are those of the specification and of the settings."""
    environment = read()

    traces, metrics = environment.traces.target, environment.metrics.target
    assert traces is not None
    assert metrics is not None
    assert traces.endpoint == "http://localhost:4318/v1/traces"
    assert metrics.endpoint == "http://localhost:4318/v1/metrics"
    assert (traces.grpc, traces.secure, traces.compression) == (False, False, "none")
    assert (traces.timeout_s, traces.headers) == (10.0, ())
    assert environment.metric_interval_s == 60.0
    assert environment.settings.queue_size == 65536
    assert environment.settings.schedule_delay_s == 1.0
    assert environment.settings.export_batch_size == 512
    assert environment.settings.models is None
    assert environment.settings.sampler is ALWAYS_ON
    assert isinstance(environment.settings.exemplar_filter, TraceBasedExemplarFilter)


@pytest.mark.parametrize("value", ["true", "TRUE", " True "])
def test_disabled_means_nothing_is_read(value: str) -> None:
    """A disabled SDK reads nothing else, not even what is wrong."""
    environ = {"OTEL_SDK_DISABLED": value, "OTEL_TRACES_SAMPLER": "wrong"}

    assert read_environment(environ) is None


def test_blank_variables_count_as_not_set() -> None:
    """An empty value is the same as none, as the specification says."""
    environment = read(
        OTEL_SDK_DISABLED="",
        OTEL_TRACES_EXPORTER=" ",
        OTEL_EXPORTER_OTLP_ENDPOINT="",
        OTEL_BSP_MAX_QUEUE_SIZE="",
        OTEL_INTERCEPT_FINGERPRINT_KEY="",
    )

    assert environment.traces.target is not None
    assert environment.settings.queue_size == 65536


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("http://c:4318/", "http://c:4318/v1/traces"),
        ("https://c/otlp/", "https://c/otlp/v1/traces"),
        ("http://c/x?token=a%2Fb", "http://c/x/v1/traces?token=a%2Fb"),
        ("http://u:p@c:1/", "http://u:p@c:1/v1/traces"),
        ("http://[::1]:4318#f", "http://[::1]:4318/v1/traces"),
    ],
)
def test_the_path_of_the_signal_is_added_to_the_general_endpoint(
    base: str, expected: str
) -> None:
    """A base URL gets the signal's path, before its query."""
    assert target(OTEL_EXPORTER_OTLP_ENDPOINT=base).endpoint == expected


def test_the_variables_of_a_signal_win() -> None:
    """A signal's own variable replaces the general one; its URL is used as it is."""
    own = target(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://general",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="https://own/spans?k=1",
        OTEL_EXPORTER_OTLP_HEADERS="a=1,b=2",
        OTEL_EXPORTER_OTLP_TRACES_HEADERS="C=%20x%2Cy%20,d=e=f",
        OTEL_EXPORTER_OTLP_TIMEOUT="3",
        OTEL_EXPORTER_OTLP_TRACES_TIMEOUT="0.5",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_EXPORTER_OTLP_TRACES_COMPRESSION="deflate",
    )

    assert own.endpoint == "https://own/spans?k=1"
    assert own.secure
    assert own.headers == (("c", " x,y "), ("d", "e=f"))
    assert own.timeout_s == 0.5
    assert own.compression == "deflate"


@pytest.mark.parametrize(
    ("endpoint", "insecure", "expected"),
    [
        ("http://c:4317", "", ("c:4317", False)),
        ("https://c:4317/ignored?x=1", "true", ("c:4317", True)),
        ("c:4317", "", ("c:4317", True)),
        ("c:4317", "true", ("c:4317", False)),
        ("", "", ("localhost:4317", False)),
    ],
)
def test_grpc_takes_host_and_port(
    endpoint: str, insecure: str, expected: tuple[str, bool]
) -> None:
    """For gRPC the scheme decides on TLS, and without a scheme the variable does."""
    read_target = target(
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        OTEL_EXPORTER_OTLP_INSECURE=insecure,
    )

    assert read_target.grpc
    assert (read_target.endpoint, read_target.secure) == expected


def test_a_target_shows_neither_its_url_nor_its_headers() -> None:
    """Where telemetry goes may hold secrets, so it is not in any repr."""
    environment = read(
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://u:{CANARY}@c/?token={CANARY}",
        OTEL_EXPORTER_OTLP_HEADERS=f"authorization={CANARY}",
        OTEL_INTERCEPT_FINGERPRINT_KEY=CANARY + CANARY,
    )

    assert CANARY not in repr(environment)


@pytest.mark.parametrize(
    ("environ", "argument", "expected"),
    [
        ({}, None, "otel_intercept"),
        ({}, "mine", "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=listed"}, "mine", "listed"),
        (
            {
                "OTEL_RESOURCE_ATTRIBUTES": "service.name=listed",
                "OTEL_SERVICE_NAME": "own",
            },
            "mine",
            "own",
        ),
    ],
)
def test_the_operator_names_the_service_before_the_program_does(
    environ: dict[str, str], argument: str | None, expected: str
) -> None:
    """The service name is taken from the most specific place that has one."""
    environment = read_environment(environ, service_name=argument)

    assert environment is not None
    assert environment.resource.attributes["service.name"] == expected


def test_the_resource_says_who_and_which_process() -> None:
    """Resource attributes are decoded, and every process has an instance id."""
    first = read(OTEL_RESOURCE_ATTRIBUTES="team=a%20b, region=eu ,empty=").resource
    second = read().resource

    assert first.attributes["team"] == "a b"
    assert first.attributes["region"] == "eu"
    assert first.attributes["empty"] == ""
    assert first.attributes["telemetry.sdk.name"] == "opentelemetry"
    ids = {each.attributes["service.instance.id"] for each in (first, second)}
    assert len(ids) == 2


def test_an_instance_id_that_is_given_stays() -> None:
    """An orchestrator may name the instance."""
    resource = read(OTEL_RESOURCE_ATTRIBUTES="service.instance.id=pod-7").resource

    assert resource.attributes["service.instance.id"] == "pod-7"


@pytest.mark.parametrize("prefix", ["", "parentbased_"])
def test_samplers(prefix: str) -> None:
    """All samplers of the specification decide on rollouts, by ratio too."""
    on = read(OTEL_TRACES_SAMPLER=f"{prefix}always_on").settings.sampler
    off = read(OTEL_TRACES_SAMPLER=f"{prefix}always_off").settings.sampler
    ratio = read(
        OTEL_TRACES_SAMPLER=f"{prefix}TraceIdRatio", OTEL_TRACES_SAMPLER_ARG="0.25"
    ).settings.sampler

    assert on is ALWAYS_ON
    assert off is ALWAYS_OFF
    assert isinstance(ratio, TraceIdRatioBased)
    assert ratio.rate == 0.25


def test_exemplar_filters() -> None:
    """All exemplar filters of the specification can be chosen."""
    on = read(OTEL_METRICS_EXEMPLAR_FILTER="always_on").settings.exemplar_filter
    off = read(OTEL_METRICS_EXEMPLAR_FILTER="always_off").settings.exemplar_filter

    assert isinstance(on, AlwaysOnExemplarFilter)
    assert isinstance(off, AlwaysOffExemplarFilter)


def test_queue_batch_and_labels() -> None:
    """Sizes, delays, models and the key of the fingerprints reach the settings."""
    environment = read(
        OTEL_BSP_MAX_QUEUE_SIZE="100",
        OTEL_BSP_SCHEDULE_DELAY="250",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="10",
        OTEL_METRIC_EXPORT_INTERVAL="1500",
        OTEL_INTERCEPT_MODELS="a, b,,",
        OTEL_INTERCEPT_FINGERPRINT_KEY="k" * 16,
    )

    settings = environment.settings
    assert settings.queue_size == 100
    assert settings.schedule_delay_s == 0.25
    assert settings.export_batch_size == 10
    assert environment.metric_interval_s == 1.5
    assert settings.models == frozenset({"a", "b"})
    assert settings.fingerprint_key == b"k" * 16


def test_the_fingerprint_key_is_random_by_default() -> None:
    """Two processes without a common key do not make comparable fingerprints."""
    keys = {read().settings.fingerprint_key, read().settings.fingerprint_key}

    assert len(keys) == 2
    assert min(map(len, keys)) >= 32


@pytest.mark.parametrize(
    ("traces", "metrics", "file", "expected"),
    [
        ("none", "none", "", (False, False, None, False, False, None)),
        ("otlp", "none", "", (True, False, None, False, False, None)),
        ("console,otlp", "console", "", (True, True, None, False, True, None)),
        ("none", "none", "f.jsonl", (False, False, "f.jsonl", False, False, None)),
        ("otlp", "none", "f.jsonl", (True, False, "f.jsonl", False, False, None)),
        (
            "otlp_json_file",
            "otlp_json_file",
            "d/f.jsonl",
            (False, False, "d/f.jsonl", False, False, "d/f.metrics.jsonl"),
        ),
    ],
)
def test_exporters_are_chosen_by_name(
    traces: str,
    metrics: str,
    file: str,
    expected: tuple[bool, bool, str | None, bool, bool, str | None],
) -> None:
    """Lists of exporters work, a file may come beside them, and ``none`` is none."""
    environment = read(
        OTEL_TRACES_EXPORTER=traces,
        OTEL_METRICS_EXPORTER=metrics,
        OTEL_INTERCEPT_FILE=file,
    )

    chosen = [
        part
        for outputs in (environment.traces, environment.metrics)
        for part in (
            outputs.target is not None,
            outputs.console,
            None if outputs.file is None else str(outputs.file),
        )
    ]
    assert tuple(chosen) == expected


BAD = [
    ("OTEL_SDK_DISABLED", "yes"),
    ("OTEL_TRACES_EXPORTER", "zipkin"),
    ("OTEL_TRACES_EXPORTER", "none,otlp"),
    ("OTEL_TRACES_EXPORTER", "otlp_json_file"),
    ("OTEL_METRICS_EXPORTER", "prometheus"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", CANARY),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", CANARY),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", f"ftp://{CANARY}"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://?{CANARY}"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{CANARY}:port"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{CANARY}:0"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://[{CANARY}"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://a {CANARY}"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://a\n{CANARY}"),
    ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", CANARY),
    ("OTEL_EXPORTER_OTLP_HEADERS", f"Authorization: Bearer {CANARY}"),
    ("OTEL_EXPORTER_OTLP_HEADERS", f"a b={CANARY}"),
    ("OTEL_EXPORTER_OTLP_HEADERS", f"a=%0D%0Ax-{CANARY}"),
    ("OTEL_EXPORTER_OTLP_HEADERS", f"a=ü{CANARY}"),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", CANARY),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", CANARY),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "10000"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "nan"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", CANARY),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", f"/nowhere/{CANARY}"),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", f"/nowhere/\0{CANARY}"),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", __file__),
    ("OTEL_TRACES_SAMPLER", CANARY),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "1.5"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
    ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5000"),
    ("OTEL_METRIC_EXPORT_INTERVAL", CANARY),
    ("OTEL_METRICS_EXEMPLAR_FILTER", CANARY),
    ("OTEL_RESOURCE_ATTRIBUTES", CANARY),
    ("OTEL_RESOURCE_ATTRIBUTES", f"={CANARY}"),
    ("OTEL_INTERCEPT_FINGERPRINT_KEY", "short-canary"),
]


@pytest.mark.parametrize(
    ("name", "value"), BAD, ids=[f"{number}-{bad[0]}" for number, bad in enumerate(BAD)]
)
def test_a_bad_value_is_named_and_not_repeated(name: str, value: str) -> None:
    """The error has the variable and what is allowed; the value is nowhere in it."""
    with pytest.raises(ConfigurationError) as caught:
        read(**{name: value})

    printed = "".join(traceback.format_exception(caught.value))
    assert name in str(caught.value)
    assert "canary" not in printed
    assert caught.value.__context__ is None


def test_a_bad_ratio_is_named() -> None:
    """The argument of the ratio sampler is checked when that sampler is chosen."""
    with pytest.raises(ConfigurationError, match="OTEL_TRACES_SAMPLER_ARG") as caught:
        read(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG=f"2{CANARY}")

    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://user:{CANARY}@host:4317"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate"),
        ("OTEL_EXPORTER_OTLP_INSECURE", CANARY),
    ],
)
def test_what_grpc_cannot_do_is_an_error(name: str, value: str) -> None:
    """A user name, deflate and a wrong flag are refused for gRPC."""
    with pytest.raises(ConfigurationError, match=name) as caught:
        read(OTEL_EXPORTER_OTLP_PROTOCOL="grpc", **{name: value})

    assert CANARY not in str(caught.value)


def test_a_file_that_can_be_read_is_taken(tmp_path: Path) -> None:
    """Paths of certificates are kept when they can be read."""
    path = tmp_path / "ca.pem"
    path.write_text("x")

    read_target = target(
        OTEL_EXPORTER_OTLP_CERTIFICATE=str(path),
        OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=str(path),
        OTEL_EXPORTER_OTLP_CLIENT_KEY=str(path),
    )

    assert read_target.certificate == str(path)
    assert read_target.client_key == read_target.client_certificate == str(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fingerprint_key", b"short"),
        ("queue_size", -77),
        ("schedule_delay_s", -77.0),
        ("schedule_delay_s", 1e9),
        ("export_batch_size", -77),
        ("export_batch_size", 4097),
        ("model_cap", -77),
        ("recorder", "fork"),
    ],
)
def test_settings_refuse_what_cannot_work(field: str, value: object) -> None:
    """A setting out of range is named, and its value is not repeated."""
    with pytest.raises(ConfigurationError, match=field) as caught:
        build_settings(**{field: value})

    assert repr(value) not in str(caught.value)
