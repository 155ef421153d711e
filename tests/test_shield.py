"""Our own mistakes stay ours."""

import pytest

from otel_intercept.shield import shielded
from tests.conftest import logged

SECRET = "sk-canary-55ac10"


def test_a_mistake_is_logged_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What an observing function raises ends as one constant warning."""

    @shielded
    def observe(value: str) -> None:
        raise RuntimeError(value)

    observe(SECRET)

    assert "telemetry failed in" in logged(caplog)
    assert SECRET not in logged(caplog)


def test_interrupts_pass() -> None:
    """Only ``Exception`` is held back."""

    @shielded
    def observe() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        observe()
