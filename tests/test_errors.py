"""Errors on a state: safe to print, copy, pickle and send to another process."""

import copy
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable

import pytest

from otel_intercept import errors
from otel_intercept.errors import (
    ConfigurationError,
    InterceptionError,
    NotIntercepted,
    OtelInterceptError,
    RolloutError,
    RolloutExistsError,
    StreamInterrupted,
)
from otel_intercept.failure import Failure, describe
from otel_intercept.semconv import ErrorType, Origin, Phase

SECRET = "sk-canary-7d1f0b"
KEY = b"a key of at least 16 bytes"

each_class = pytest.mark.parametrize(
    "error_class", [RolloutError, InterceptionError, StreamInterrupted]
)


def fail() -> None:
    """Raise the secret."""
    raise RuntimeError(SECRET)


def raise_from_a_secret(error_class: type[RolloutError]) -> None:
    """Raise an error as nobody should: from the raw exception."""
    try:
        fail()
    except RuntimeError as exc:
        raise error_class(failure_of_a_secret()) from exc


def made_while_handling(error_class: type[RolloutError]) -> RolloutError:
    """Make an error inside an except block, and raise it not."""
    try:
        fail()
    except RuntimeError:
        return error_class(failure_of_a_secret())
    raise AssertionError("nothing was raised")


def failure_of_a_secret() -> Failure:
    """Describe an exception whose every text is the secret."""
    exc = RuntimeError(SECRET, {"key": SECRET})
    exc.add_note(SECRET)
    exc.__cause__ = ConnectionResetError(104, SECRET)
    return describe(exc, phase=Phase.RESPONSE_FUTURE, key=KEY)


@each_class
def test_texts_are_enum_words(error_class: type[RolloutError]) -> None:
    """Neither str nor repr says more than the class and three closed words."""
    error = error_class(failure_of_a_secret())

    assert str(error) == "upstream_connection in response_future (upstream)"
    assert repr(error) == f"{error_class.__name__}({error})"
    assert error.args == ()


@each_class
def test_no_text_shows_the_fingerprint(error_class: type[RolloutError]) -> None:
    """The fingerprint is for telemetry only, so no text of an error has it."""
    error = error_class(failure_of_a_secret())
    texts = [str(error), repr(error), f"{error}", repr(error.failure)]
    texts += traceback.format_exception(error)

    assert error.failure.fingerprint not in "".join(texts)


@each_class
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_class_and_failure(
    error_class: type[RolloutError], protocol: int
) -> None:
    """A pickled error comes back the same, under every protocol."""
    error = error_class(failure_of_a_secret())

    data = pickle.dumps(error, protocol)
    back = pickle.loads(data)  # noqa: S301 - it is our own

    assert type(back) is error_class
    assert back.failure == error.failure
    assert type(back.failure.error_type) is ErrorType
    assert type(back.failure.origin) is Origin
    assert SECRET.encode() not in data


@each_class
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copying_keeps_class_and_failure(
    error_class: type[RolloutError], copied: Callable[[RolloutError], RolloutError]
) -> None:
    """A copied error is of the same class and holds an equal failure."""
    error = error_class(failure_of_a_secret())

    twin = copied(error)

    assert type(twin) is error_class
    assert twin is not error
    assert twin.failure == error.failure
    assert str(twin) == str(error)


@each_class
def test_errors_cross_processes(error_class: type[RolloutError]) -> None:
    """Another interpreter can unpickle an error, and send it back."""
    error = error_class(failure_of_a_secret())
    code = (
        "import pickle, sys; error = pickle.load(sys.stdin.buffer);"
        "print(str(error), file=sys.stderr); pickle.dump(error, sys.stdout.buffer)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(error),
        capture_output=True,
        timeout=60,
        check=False,
    )
    back = pickle.loads(done.stdout)  # noqa: S301 - it is our own

    assert done.stderr.decode().strip() == str(error)
    assert type(back) is error_class
    assert back.failure == error.failure


@each_class
def test_what_is_added_to_an_error_does_not_travel(
    error_class: type[RolloutError],
) -> None:
    """Raising an error by mistake hangs a chain on it, which copies leave behind."""
    with pytest.raises(error_class) as caught:
        raise_from_a_secret(error_class)
    error = caught.value
    error.add_note(SECRET)

    data = pickle.dumps(error)
    twin = copy.copy(error)

    assert SECRET.encode() not in data
    assert twin.__cause__ is None
    assert twin.__traceback__ is None
    assert not hasattr(twin, "__notes__")


@each_class
def test_an_error_made_while_handling_another_has_no_context(
    error_class: type[RolloutError],
) -> None:
    """Making an error inside an except block ties nothing to it."""
    error = made_while_handling(error_class)

    assert error.__cause__ is None
    assert error.__context__ is None
    assert error.__traceback__ is None


@pytest.mark.parametrize(
    ("mistake", "builtin"),
    [
        (RolloutExistsError, ValueError),
        (NotIntercepted, LookupError),
        (ConfigurationError, ValueError),
    ],
)
def test_mistakes_can_be_caught_as_builtins(
    mistake: type[OtelInterceptError], builtin: type[Exception]
) -> None:
    """A mistake is also the builtin error that fits, says its message and pickles."""
    error = mistake("what to do")

    back = pickle.loads(pickle.dumps(error))  # noqa: S301 - it is our own

    assert isinstance(error, builtin)
    assert not isinstance(error, RolloutError)
    assert str(back) == "what to do"


def test_the_tree_in_the_docstring_is_complete() -> None:
    """Every error class of the module stands in the tree that the root draws."""
    tree = OtelInterceptError.__doc__ or ""
    names = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, OtelInterceptError)
    }

    assert names == {name for name in names if name in tree}
    assert len(names) == 7
