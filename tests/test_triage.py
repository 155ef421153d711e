"""Triage: raw text goes to one logger, and only where an operator asked for it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from otel_intercept import failure as failures
from tests.exceptions import linked


class Kept(logging.Handler):
    """A handler that keeps the lines it is given, or breaks."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.broken = broken

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        if self.broken:
            raise ValueError("the disk is full")
        self.lines.append(self.format(record))


@contextmanager
def triage_logger(*handlers: logging.Handler, level: int) -> Iterator[None]:
    """Give the triage logger just these handlers, and put it back as it was."""
    logger = logging.getLogger("otel_intercept.triage")
    level_before, handlers_before = logger.level, logger.handlers[:]
    # pytest puts its own handlers on every logger that does not propagate.
    logger.handlers[:] = handlers
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(level_before)
        logger.handlers[:] = handlers_before


@pytest.fixture(autouse=True)
def root_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """Have the root logger take everything."""
    caplog.set_level(logging.DEBUG)


def test_triage_says_nothing_by_default(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Raw text goes nowhere until the triage logger has a handler of its own."""
    with triage_logger(level=logging.DEBUG):
        failures.triage(RuntimeError("sk-canary"), "r1")

    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_triage_writes_raw_text_where_it_was_asked_to(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A handler at DEBUG on the triage logger gets text and chain, and nobody else."""
    kept = Kept()

    with triage_logger(kept, level=logging.DEBUG):
        failures.triage(linked(RuntimeError("sk-canary"), KeyError("below")), "r1")

    assert "r1" in kept.lines[0]
    assert "sk-canary" in kept.lines[0]
    assert "below" in kept.lines[0]
    assert caplog.records == []


def test_triage_needs_the_level_too() -> None:
    """A handler alone gets nothing above DEBUG."""
    kept = Kept()

    with triage_logger(kept, level=logging.INFO):
        failures.triage(RuntimeError("sk-canary"))

    assert kept.lines == []


def test_a_broken_triage_handler_breaks_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What a triage handler raises is swallowed, and nothing is printed."""
    with triage_logger(Kept(broken=True), level=logging.DEBUG):
        failures.triage(RuntimeError("sk-canary"), "r1")

    assert capfd.readouterr() == ("", "")
