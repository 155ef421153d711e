"""Read a page in the text format of Prometheus."""

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

_SAMPLE: Final = re.compile(
    r"^(?P<name>[a-z_]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$"
)
_LABEL: Final = re.compile(r'([a-z_]+)="([^"]*)"')


class Sample(NamedTuple):
    """One line of a scraped page."""

    name: str
    labels: Mapping[str, str]
    value: float


def samples_of(page: str) -> Iterator[Sample]:
    """Yield every sample of a page in the text format."""
    for line in page.splitlines():
        found = _SAMPLE.match(line)
        if found is not None:
            labels = dict(_LABEL.findall(found["labels"] or ""))
            yield Sample(found["name"], labels, float(found["value"]))


def types_of(page: str) -> dict[str, str]:
    """Return the type of every metric family of a page."""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
