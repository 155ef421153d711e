"""Hostile exceptions: none of their code runs, and none of their text gets out."""

import json
import pickle
import types
from collections.abc import Callable
from dataclasses import replace

import aiohttp
import botocore.exceptions
import httpx
import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from otel_intercept import failure as failures
from otel_intercept.errors import StreamInterrupted
from otel_intercept.failure import Failure, is_cancellation
from otel_intercept.semconv import ErrorType, Phase
from otel_intercept.taxonomy.codes import CODES
from tests.exceptions import described, linked, made

SECRET = "sk-canary-41c0de"

ran: list[str] = []
"""Names of the methods of hostile objects that were run."""

SPECIAL = (
    "__bool__",
    "__bytes__",
    "__contains__",
    "__dir__",
    "__eq__",
    "__format__",
    "__ge__",
    "__getattr__",
    "__getattribute__",
    "__getitem__",
    "__getstate__",
    "__gt__",
    "__hash__",
    "__index__",
    "__instancecheck__",
    "__int__",
    "__iter__",
    "__le__",
    "__len__",
    "__lt__",
    "__ne__",
    "__reduce_ex__",
    "__repr__",
    "__str__",
    "__subclasscheck__",
)
READ = (
    "__cause__",
    "__class__",
    "__context__",
    "__dict__",
    "__notes__",
    "__suppress_context__",
    "__traceback__",
    "_code",
    "_state",
    "args",
    "body",
    "code",
    "errno",
    "exceptions",
    "failure",
    "items",
    "get",
    "response",
    "status",
    "status_code",
    "type",
)


def _tripwire(name: str) -> Callable[..., object]:
    def run(*_: object) -> object:
        ran.append(name)
        raise AssertionError(SECRET)

    return run


def hostile(*names: str) -> dict[str, object]:
    """Return a class body in which every one of these methods is a tripwire."""
    body: dict[str, object] = {name: _tripwire(name) for name in names}
    return body


def hostile_properties() -> dict[str, object]:
    """Return a class body in which everything that could be read is a tripwire."""
    return {name: property(_tripwire(name)) for name in READ}


BODY = {**hostile(*SPECIAL), **hostile_properties()}
Meta = type(
    "Meta",
    (type,),
    hostile(*SPECIAL),
)
HostileInt = type("HostileInt", (int,), hostile(*SPECIAL))
HostileStr = type("HostileStr", (str,), hostile(*SPECIAL))
HostileDict = type("HostileDict", (dict,), {**hostile(*SPECIAL), "get": _tripwire("g")})
HostileObject = type("HostileObject", (), BODY)


def fields_of(exc: BaseException) -> dict[str, object]:
    """Return the real instance dictionary of an exception."""
    found: dict[str, object] = vars(BaseException)["__dict__"].__get__(exc)
    return found


BASES = (OSError, BaseExceptionGroup)


def raw(cls: type, *arguments: object) -> BaseException:
    """Make an exception without calling its own constructor."""
    base = next(known for known in (*BASES, BaseException) if issubclass(cls, known))
    exc: BaseException = vars(base)["__new__"](cls, *arguments)
    return exc


def filled(exc: BaseException, value: object) -> BaseException:
    """Put a value wherever the classifier might look."""
    for name in READ:
        fields_of(exc)[name] = value
    return exc


class WithStrangeKeys(dict[object, object]):
    """A dictionary class, which is not the exact one."""


def _instances() -> list[BaseException]:
    plain = type("Hostile", (Exception,), dict(BODY))
    exact_keys = raw(openai.RateLimitError)
    strange = type("Key", (str,), {"__hash__": str.__hash__, **hostile("__eq__")})
    fields_of(exact_keys).update({strange("status_code"): 429, "code": "x"})
    system = OSError()
    system.errno = HostileInt(104)
    group_class = type("Group", (ExceptionGroup,), dict(BODY))
    values = [
        HostileInt(429),
        HostileStr("content_filter"),
        HostileDict(error=HostileStr("x")),
        {"error": HostileDict(type="x"), "code": HostileStr("x")},
        {"error": {"type": HostileStr("overloaded_error")}},
        HostileObject(),
        _tripwire("function"),
    ]
    known = [
        openai.APIStatusError,
        aiohttp.ClientResponseError,
        httpx.HTTPStatusError,
        botocore.exceptions.ClientError,
    ]
    return [
        raw(plain, SECRET),
        raw(type("Hostile", (OSError,), dict(BODY)), SECRET),
        raw(type("Hostile", (TimeoutError,), dict(BODY)), SECRET),
        type.__call__(Meta("Hostile", (Exception,), dict(BODY)), SECRET),
        raw(group_class, SECRET, [raw(plain), ValueError(SECRET)]),
        RuntimeError(HostileObject(), HostileStr(SECRET), HostileInt(1)),
        KeyError(HostileStr(SECRET)),
        httpx.ReadError(SECRET),
        exact_keys,
        system,
        *(filled(raw(cls), value) for cls in known for value in values),
        *(
            filled(raw(type("Hostile", (cls,), dict(BODY))), value)
            for cls in known
            for value in values
        ),
        *(
            filled(raw(type(name, (Exception,), {**BODY, "__module__": module})), "x")
            for module, _, name in (
                ("openai", ".", "RateLimitError"),
                ("builtins", ".", "OSError"),
                ("httpcore", ".", "ConnectError"),
                ("grpc.aio._call", ".", "AioRpcError"),
            )
        ),
    ]


INSTANCES = _instances()


@pytest.mark.parametrize("index", range(len(INSTANCES)))
@pytest.mark.parametrize("phase", [Phase.CHUNK, Phase.UPSTREAM_CALL])
def test_no_code_of_an_exception_runs(index: int, phase: Phase) -> None:
    """Describing runs no method, property or metaclass of what it describes."""
    ran.clear()
    wrapped = RuntimeError("model failed")
    vars(BaseException)["__cause__"].__set__(wrapped, INSTANCES[index])

    failure = described(INSTANCES[index], phase)
    below = described(wrapped, phase)
    is_cancellation(INSTANCES[index])

    assert ran == []
    assert SECRET not in f"{failure} {below}"
    assert SECRET.encode() not in pickle.dumps([failure, below])
    assert below.exception_type == "RuntimeError"


def test_the_tripwires_work() -> None:
    """A careless reader would run the code of every one of those objects."""
    ran.clear()
    careless: tuple[Callable[[], object], ...] = (
        lambda: str(INSTANCES[0]),
        lambda: isinstance(INSTANCES[0], OSError),
        lambda: hash(type(INSTANCES[3])),
        lambda: {"status_code": fields_of(INSTANCES[8])["status_code"]},
        lambda: HostileStr("x") == "x",
        lambda: HostileInt(1) in {1},
    )

    for read in careless:
        with pytest.raises(AssertionError):
            read()

    assert len(ran) == len(careless)


@pytest.mark.parametrize("kind", [bool, float, str, HostileInt, list])
def test_a_status_that_is_no_exact_int_is_not_kept(
    kind: Callable[[object], object],
) -> None:
    """Only an exact int is a status."""
    exc = raw(openai.RateLimitError)
    fields_of(exc)["status_code"] = kind("4")

    failure = described(exc)

    assert failure.status_code is None
    assert failure.error_type is ErrorType.UPSTREAM_RATE_LIMITED


def test_a_status_that_is_an_attribute_of_an_unlisted_class_is_not_read() -> None:
    """An int on a class that nobody listed says nothing about HTTP."""
    exc = made("Own")
    fields_of(exc)["status_code"] = 429

    failure = described(exc)

    assert failure.status_code is None
    assert failure.error_type is ErrorType.OTHER


def test_a_response_that_poses_as_one_is_not_read() -> None:
    """The path to a status leads only through the libraries' own classes."""
    posing = type("Response", (), {**BODY, "__module__": "httpx"})
    exc = raw(httpx.HTTPStatusError)
    fields_of(exc)["response"] = posing()
    ran.clear()

    failure = described(exc)

    assert failure.status_code is None
    assert ran == []


def test_a_frame_of_hostile_fields() -> None:
    """Fields of an error frame that are no exact str are looked at no further."""
    ran.clear()

    failure = failures.from_error_frame(HostileStr("x"), HostileStr("y"), key=b"k" * 16)

    assert failure.error_type is ErrorType.UPSTREAM_ERROR_FRAME
    assert ran == []


def test_an_error_frame_keeps_none_of_its_text() -> None:
    """What a frame says is looked up and forgotten."""
    known = failures.from_error_frame(SECRET, "server_error", key=b"k" * 16)
    unknown = failures.from_error_frame(SECRET, SECRET, key=b"k" * 16)

    assert SECRET not in f"{known} {unknown}"


def _openai_error(text: str) -> BaseException:
    request = httpx2.Request("POST", "http://127.0.0.1", content=text.encode())
    headers = {"x-request-id": json.dumps(text)}
    response = httpx2.Response(400, request=request, headers=headers, text=text)
    body = {"message": text, "type": text, "code": text, "param": text}
    return openai.BadRequestError(text, response=response, body=body)


def _aiohttp_error(text: str) -> BaseException:
    url = URL("http://127.0.0.1").with_query(key=text)
    headers = CIMultiDictProxy(CIMultiDict({"Authorization": text}))
    info = aiohttp.RequestInfo(url, "GET", headers, url)
    return aiohttp.ClientResponseError(info, (), status=500, message=text)


def _noted(text: str) -> BaseException:
    exc = RuntimeError("fixed")
    exc.add_note(text)
    fields_of(exc)[text] = text
    return exc


def _raised_within(text: str) -> BaseException:
    def fail(local: str) -> None:
        raise KeyError(local)

    with pytest.raises(KeyError) as caught:
        fail(text)
    return caught.value


MAKERS: tuple[Callable[[str], BaseException], ...] = (
    RuntimeError,
    lambda text: OSError(1, text, text),
    lambda text: ConnectionResetError(104, text),
    lambda text: RuntimeError(text, {text: text}, [text]),
    lambda text: made("Own", text, base=RuntimeError),
    lambda text: made("x" + text.replace("\0", ""), base=TimeoutError),
    lambda text: made("Own", __qualname__=text, base=TimeoutError),
    lambda text: made("Own", __module__=text, base=TimeoutError),
    lambda text: linked(RuntimeError(text), httpx.ReadTimeout(text)),
    lambda text: ExceptionGroup(text, [KeyError(text), TimeoutError(text)]),
    lambda text: botocore.exceptions.ClientError(
        {"Error": {"Code": text, "Message": text}}, text
    ),
    lambda text: json.JSONDecodeError(text, text, 0),
    _openai_error,
    _aiohttp_error,
    _noted,
    _raised_within,
)

# A known code is no mere text: it is what the closed table is for.
texts = st.text(max_size=40).filter(lambda text: text not in CODES)
anything = st.text(st.characters())


@pytest.mark.parametrize("make", MAKERS, ids=range(len(MAKERS)))
@settings(deadline=None)
@given(one=texts, other=texts)
def test_text_changes_nothing_but_the_fingerprint(
    make: Callable[[str], BaseException], one: str, other: str
) -> None:
    """Two exceptions that differ in text alone have equal descriptors."""

    def without_fingerprint(text: str) -> Failure:
        return replace(described(make(text)), fingerprint="")

    assert without_fingerprint(one) == without_fingerprint(other)


@settings(deadline=None)
@given(text=st.text(min_size=1))
def test_an_error_says_the_same_whatever_failed(text: str) -> None:
    """The texts of an error on the state do not depend on the exception's text."""
    error = StreamInterrupted(described(RuntimeError(text)))

    assert str(error) == "_OTHER in upstream_call (upstream)"


@settings(deadline=None)
@given(text=anything, name=anything)
def test_describing_never_raises(text: str, name: str) -> None:
    """Any name and any text give a descriptor of safe parts."""
    body = types.new_class("Any", (Exception,))
    body.__qualname__ = name
    body.__module__ = text

    failure = described(body(text))

    assert failure.exception_type == "Exception"
    assert len(failure.fingerprint) == 16
