"""Turn an instrument of the catalogue into the names that Prometheus has for it.

The rules are those of the OpenTelemetry specification for Prometheus exporters, which
the Collector's ``prometheus`` exporter and the Python SDK's follow alike: dots become
underscores, the unit becomes a suffix, UCUM annotations in braces do not, counters end
in ``_total``.
"""

import re
from dataclasses import dataclass
from typing import Final

from otel_intercept.semconv import Instrument

SERVICE: Final = "job"
"""``service.name`` (after ``service.namespace/``, if there is one)."""

INSTANCE: Final = "instance"
"""``service.instance.id``: one process."""

ENVIRONMENT: Final = "deployment_environment_name"
"""``deployment.environment.name``, which the Collector must copy to each series."""

_UNITS: Final = {"s": "seconds", "By": "bytes", "1": ""}
_ANNOTATION: Final = re.compile(r"\{[^}]*\}")
_NOT_IN_A_NAME: Final = re.compile(r"[^a-zA-Z0-9]+")


class UnknownUnitError(ValueError):
    """An instrument has a unit whose Prometheus suffix is not known here."""


@dataclass(frozen=True, slots=True)
class Names:
    """What Prometheus calls one instrument.

    Args:
        family: The name of the metric family, without the suffix of a sample.
        kind: ``counter``, ``gauge`` or ``histogram``, as Prometheus types it.
        labels: The label names, in the order of the instrument's label keys.
    """

    family: str
    kind: str
    labels: tuple[str, ...]

    @property
    def sample(self) -> str:
        """The one series of a counter or gauge.

        Raises:
            ValueError: It is a histogram, which has three.
        """
        if self.kind == "histogram":
            raise ValueError("a histogram has buckets, a sum and a count")
        return self.family

    @property
    def bucket(self) -> str:
        """The bucket series of a histogram."""
        return self._histogram("bucket")

    @property
    def sum(self) -> str:
        """The sum series of a histogram."""
        return self._histogram("sum")

    @property
    def count(self) -> str:
        """The count series of a histogram."""
        return self._histogram("count")

    @property
    def samples(self) -> tuple[str, ...]:
        """Every series name of the instrument."""
        if self.kind == "histogram":
            return (self.bucket, self.sum, self.count)
        return (self.family,)

    def _histogram(self, suffix: str) -> str:
        if self.kind != "histogram":
            raise ValueError("only a histogram has buckets, a sum and a count")
        return f"{self.family}_{suffix}"


def names_of(instrument: Instrument) -> Names:
    """Return the Prometheus names of an instrument.

    Raises:
        UnknownUnitError: The unit is not one of the catalogue so far.
    """
    words = [_flat(instrument.name)]
    unit = _unit(instrument.unit)
    if unit and not words[0].endswith(f"_{unit}"):
        words.append(unit)
    if instrument.kind == "counter":
        words.append("total")
    kind = "gauge" if instrument.kind == "updowncounter" else instrument.kind
    return Names("_".join(words), kind, tuple(map(label_of, instrument.labels)))


def label_of(key: str) -> str:
    """Return the label name of an attribute key.

    Raises:
        ValueError: The key starts with a digit, which no label can.
    """
    if key[:1].isdigit():
        raise ValueError("a label name cannot start with a digit")
    return re.sub(r"[^a-zA-Z0-9_]", "_", key)


def _flat(name: str) -> str:
    return _NOT_IN_A_NAME.sub("_", name)


def _unit(unit: str) -> str:
    bare = _ANNOTATION.sub("", unit)
    if bare == "":
        return ""
    if bare not in _UNITS:
        raise UnknownUnitError("teach dashboards.names the Prometheus name of the unit")
    return _UNITS[bare]
