"""The face of the package: what a user may import from the top."""

from types import ModuleType

import otel_intercept


def test_all_names_are_what_can_be_imported() -> None:
    """``__all__`` is sorted and lists exactly the public names, no more and no less."""
    importable = sorted(
        name
        for name, value in vars(otel_intercept).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    )

    assert list(otel_intercept.__all__) == importable


def test_every_public_name_is_documented() -> None:
    """Every public name has a docstring of its own."""
    undocumented = [
        name
        for name in otel_intercept.__all__
        if not getattr(otel_intercept, name).__doc__
    ]

    assert undocumented == []
