"""What an alert and a recording rule are made of."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

RUNBOOKS: Final = "docs/runbooks"


class Severity(StrEnum):
    """Who is told, and how fast."""

    PAGE = "page"
    TICKET = "ticket"
    INFO = "info"


class Component(StrEnum):
    """Whose team it is for."""

    ROLLOUTS = "rollouts"
    UPSTREAM = "upstream"
    TELEMETRY = "telemetry"


@dataclass(frozen=True, slots=True)
class RecordingRule:
    """A query whose result is kept as a series.

    Args:
        name: ``level:metric:operation``.
        query: The query.
    """

    name: str
    query: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule that tells somebody.

    Args:
        name: The alert's name, and its runbook's.
        slug: Tells rules of the same name apart; unique.
        severity: Who is told, and how fast.
        component: Whose team it is for.
        query: Has one series for each thing that is wrong, with a value above 0.
        hold: How long it must be wrong before anybody is told.
        summary: One line, with templates for labels and value.
        description: What to know before opening the runbook.
        labels: Further labels.
    """

    name: str
    slug: str
    severity: Severity
    component: Component
    query: str
    hold: str
    summary: str
    description: str
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def runbook(self) -> str:
        """Where its runbook is."""
        return f"{RUNBOOKS}/{self.name}.md"
