"""The tables of classes and codes: no slips, nothing that could not be right."""

import importlib
import importlib.util
from pathlib import Path

import pytest

from otel_intercept.failure import from_error_frame
from otel_intercept.semconv import ErrorType
from otel_intercept.taxonomy.classes import CLASSES

SIBLINGS = {
    "anthropic": "openai",
    "httpcore": "httpcore2",
    "httpcore2": "httpcore",
    "httpx": "httpx2",
    "httpx2": "httpx",
    "openai": "anthropic",
}


def exists(module: str, name: str) -> bool:
    """Return whether an installed library has a class, without running verifiers."""
    if module.startswith("verifiers."):
        package = importlib.util.find_spec("verifiers")
        assert package is not None
        assert package.origin is not None
        root = Path(package.origin).parent
        parts = module.removeprefix("verifiers.").removeprefix("legacy.").split(".")
        top = root if parts[0] == "v1" else root / "legacy"
        source = top.joinpath(*parts).with_suffix(".py").read_text(encoding="utf-8")
        return f"class {name}(" in source
    return isinstance(getattr(importlib.import_module(module), name, None), type)


@pytest.mark.parametrize("dotted", sorted(CLASSES))
def test_every_listed_class_exists(dotted: str) -> None:
    """No name in the tables is a slip: the library that it names has such a class."""
    module, _, name = dotted.rpartition(".")
    sibling = SIBLINGS.get(module)

    assert exists(module, name) or (sibling is not None and exists(sibling, name))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("503", ErrorType.UPSTREAM_OVERLOADED),
        ("429", ErrorType.UPSTREAM_RATE_LIMITED),
        ("400", ErrorType.UPSTREAM_BAD_REQUEST),
        ("server_is_overloaded", ErrorType.UPSTREAM_OVERLOADED),
        ("upstream_timeout", ErrorType.UPSTREAM_TIMEOUT),
        ("upstream_context_length", ErrorType.UPSTREAM_CONTEXT_LENGTH),
    ],
)
def test_codes_of_frames_are_looked_up(code: str, expected: ErrorType) -> None:
    """Statuses sent as codes, and the types that a proxy of ours sends, are known."""
    failure = from_error_frame("server_error", code, key=b"k" * 16)

    assert failure.error_type is expected
