"""Hostile exceptions: canaries in every slot that an exception has, and traps."""

import asyncio
import errno
import json
from collections.abc import Mapping
from types import FunctionType, MappingProxyType
from typing import Final, NoReturn

import anthropic
import httpx2
from aiohttp import web

from tests.canary import Mint
from tests.canary_liars import LIARS, Raises, made_class, openai_error


class _Opaque:
    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __repr__(self) -> str:
        return f"<opaque {self.canary}>"


def _message(mint: Mint) -> NoReturn:
    raise RuntimeError(f"GET https://u:{mint('exc.message')}@up.invalid/?key=1 failed")


def _arguments(mint: Mint) -> NoReturn:
    canary = mint("exc.args")
    raise RuntimeError("a fixed sentence", {canary: [canary]}, _Opaque(canary), 7)


def _note(mint: Mint) -> NoReturn:
    error = RuntimeError("a fixed sentence")
    error.add_note(f"while calling with key {mint('exc.note')}")
    raise error


def _cause(mint: Mint) -> NoReturn:
    raise RuntimeError("wrapped") from ValueError(mint("exc.cause"))


def _context(mint: Mint) -> NoReturn:
    try:
        _refuse(mint("exc.context"))
    except ValueError:
        raise RuntimeError("while handling")  # noqa: B904 - the context is the point


def _suppressed(mint: Mint) -> NoReturn:
    try:
        _refuse(mint("exc.suppressed_context"))
    except ValueError:
        raise RuntimeError("suppressed") from None


def _group(mint: Mint) -> NoReturn:
    member = ValueError(mint("exc.group_member"))
    inner = ExceptionGroup(mint("exc.group_message"), [member])
    raise ExceptionGroup("outer", [TypeError("harmless"), inner])


def _deep(mint: Mint) -> NoReturn:
    error: Exception = ValueError(mint("exc.deep"))
    for _ in range(200):
        outer = RuntimeError("outer")
        outer.__cause__ = error
        error = outer
    raise error


def _cycle(mint: Mint) -> NoReturn:
    first, second = RuntimeError(mint("exc.cycle")), ValueError("second")
    first.__cause__, second.__context__ = second, first
    raise first


def _class_name(mint: Mint) -> NoReturn:
    raise made_class(mint("exc.class_name"), __module__="builtins")("no text")


def _class_module(mint: Mint) -> NoReturn:
    raise made_class("Refused", __module__=mint("exc.class_module"))("no text")


def _class_qualname(mint: Mint) -> NoReturn:
    qualname = f"Client.{mint('exc.class_qualname')}"
    raise made_class("Refused", __module__=__name__, __qualname__=qualname)("no text")


def _attributes(mint: Mint) -> NoReturn:
    error = RuntimeError("a fixed sentence")
    canary = mint("exc.attribute")
    for name in ("status", "status_code", "code", "type", "failure", "response"):
        setattr(error, name, canary)
    vars(error).update(body={"error": {"code": canary}}, url=canary, reason=canary)
    raise error


def _openai_fields(mint: Mint) -> NoReturn:
    canary = mint("exc.openai_field")
    error = openai_error(canary)
    error.body = {"message": canary, "code": canary, "type": canary}
    error.code = error.param = error.type = canary
    raise error


def _anthropic_fields(mint: Mint) -> NoReturn:
    canary = mint("exc.anthropic_field")
    body = {"type": "error", "error": {"type": canary, "message": canary}}
    request = httpx2.Request("POST", f"http://up.invalid/{canary}")
    response = httpx2.Response(529, request=request, headers={"request-id": canary})
    raise anthropic.APIStatusError(canary, response=response, body=body)


def _os_error(mint: Mint) -> NoReturn:
    canary = mint("exc.os_error")
    raise PermissionError(errno.EACCES, f"denied {canary}", f"/home/{canary}/key")


def _odd_errno(mint: Mint) -> NoReturn:
    raise OSError(mint.number("exc.errno"), "strange")


def _unicode(mint: Mint) -> NoReturn:
    mint("exc.unicode").encode().join((b"\xff", b"")).decode()
    raise AssertionError


def _json(mint: Mint) -> NoReturn:
    json.loads(f'{{"key": {mint("exc.json")}')
    raise AssertionError


def _key(mint: Mint) -> NoReturn:
    raise KeyError(mint("exc.key"))


def _import(mint: Mint) -> NoReturn:
    canary = mint("exc.import")
    raise ImportError(canary, name=canary, path=f"/opt/{canary}")


def _locals(mint: Mint) -> NoReturn:
    api_key = mint("exc.local")
    raise RuntimeError(f"a key of {len(api_key)} characters was refused")


def _code_names(mint: Mint) -> NoReturn:
    """Raise from a function and a file whose names are data."""

    def refuse() -> NoReturn:
        raise RuntimeError("no text")

    code = refuse.__code__.replace(
        co_name=mint("exc.function_name"), co_filename=f"/{mint('exc.file_name')}.py"
    )
    FunctionType(code, globals())()
    raise AssertionError


def _long(mint: Mint) -> NoReturn:
    raise RuntimeError(f"{mint('exc.long')} " * 2_000)


def _control_characters(mint: Mint) -> NoReturn:
    raise RuntimeError(f"\r\n\0\x1b[31m\ud800 {mint('exc.control_characters')}")


def _timeout(mint: Mint) -> NoReturn:
    raise TimeoutError(f"no answer from {mint('exc.timeout')}")


def _connection(mint: Mint) -> NoReturn:
    raise ConnectionRefusedError(errno.ECONNREFUSED, mint("exc.connection"))


def _http_exception(mint: Mint) -> NoReturn:
    canary = mint("exc.http_answer")
    raise web.HTTPBadGateway(text=canary, reason=f"Bad {canary}")


def _cancelled(mint: Mint) -> NoReturn:
    raise asyncio.CancelledError(mint("exc.cancel_message"))


HOSTILE: Final[Mapping[str, Raises]] = MappingProxyType(
    {
        "message": _message,
        "arguments": _arguments,
        "note": _note,
        "cause": _cause,
        "context": _context,
        "suppressed": _suppressed,
        "group": _group,
        "deep": _deep,
        "cycle": _cycle,
        "class_name": _class_name,
        "class_module": _class_module,
        "class_qualname": _class_qualname,
        "attributes": _attributes,
        "openai_fields": _openai_fields,
        "anthropic_fields": _anthropic_fields,
        "os_error": _os_error,
        "odd_errno": _odd_errno,
        "unicode": _unicode,
        "json": _json,
        "key": _key,
        "import": _import,
        "locals": _locals,
        "code_names": _code_names,
        "long": _long,
        "control_characters": _control_characters,
        "timeout": _timeout,
        "connection": _connection,
        **LIARS,
    }
)
"""Raise an ``Exception``, by name."""

ANSWERS: Final[Mapping[str, Raises]] = MappingProxyType(
    {"http_exception": _http_exception, "cancelled": _cancelled}
)
"""Raise what is no failure of the handler's: an answer of its own, a cancellation."""


RAISES: Final[Mapping[str, Raises]] = MappingProxyType({**HOSTILE, **ANSWERS})
"""Raise any of them."""


def hostile(name: str, mint: Mint) -> BaseException:
    """Return an exception as it was raised, with its traceback."""
    try:
        RAISES[name](mint)
    except BaseException as exc:  # noqa: BLE001 - cancellations are among them
        return exc
    raise AssertionError(name)


def _refuse(canary: str) -> NoReturn:
    raise ValueError(canary)
