"""What the tests of the classifier share: a key, and ways to make and describe."""

import itertools
import json
import types
from typing import Final

from otel_intercept.failure import Failure, describe
from otel_intercept.semconv import Phase

KEY: Final = b"a key of at least 16 bytes"


def described(exc: BaseException, phase: Phase = Phase.UPSTREAM_CALL) -> Failure:
    """Describe an exception under the key of the tests."""
    return describe(exc, phase=phase, key=KEY)


def linked(*chain: BaseException) -> BaseException:
    """Make each exception the cause of the one before it; return the first."""
    for above, below in itertools.pairwise(chain):
        above.__cause__ = below
    return chain[0]


def made(
    name: str,
    *arguments: object,
    base: type[Exception] = LookupError,
    **namespace: object,
) -> BaseException:
    """Make an exception of a class that is made on the spot."""
    cls = types.new_class(name, (base,), {}, lambda body: body.update(namespace))
    exc: BaseException = cls(*arguments)
    return exc


def json_error() -> BaseException:
    """Return what the standard library raises for broken JSON."""
    try:
        json.loads("{no")
    except ValueError as exc:
        return exc
    raise AssertionError("that was JSON")
