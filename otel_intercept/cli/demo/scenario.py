"""What one scripted rollout is made of, and the outcomes that it must have."""

from enum import StrEnum
from typing import NamedTuple

from otel_intercept.cli.demo.faults import Fault
from otel_intercept.semconv import Dialect, ErrorType, ExchangeOutcome, RolloutOutcome


class Host(StrEnum):
    """Which of the two hosts a rollout's agent talks to."""

    SERVER = "InterceptionServer"
    APP = "own app"


class Turn(NamedTuple):
    """One exchange: what goes wrong in it, and what must be seen of it.

    Args:
        fault: What goes wrong.
        outcome: The exchange outcome that must be exported.
        error_type: The error type that must be exported, or None for no failure.
        stream: Whether the agent asks for a stream.
        tool: Whether the agent offers its tool, which is then called.
        retry: Whether the agent's SDK makes this request by itself, as a retry.
    """

    fault: Fault = Fault.NONE
    outcome: ExchangeOutcome = ExchangeOutcome.OK
    error_type: ErrorType | None = None
    stream: bool = False
    tool: bool = False
    retry: bool = False


class Scenario(NamedTuple):
    """One kind of rollout.

    Args:
        name: Begins its rollout ids.
        host: Who intercepts.
        dialect: What the agent speaks.
        outcome: The rollout outcome that must be exported.
        turns: Its exchanges in order.
    """

    name: str
    host: Host
    dialect: Dialect
    outcome: RolloutOutcome
    turns: tuple[Turn, ...]

    @property
    def fault(self) -> Fault:
        """What goes wrong in it, at most one thing."""
        return self.turns[-1].fault
