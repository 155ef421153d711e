"""Tell whether aiohttp sends an answer in one piece as it is known to do.

It does not where others have put something in place of what it calls, nor in a later
release that asks or does more.
"""

from operator import is_
from typing import Final

from aiohttp import http_writer, web, web_response
from aiohttp.http import StreamWriter

from otel_intercept.middleware.trial import is_of_aiohttp, uses_only

_CALLED: Final = (
    (web.Response,
     ("prepare", "_start", "_prepare_headers", "_write_headers", "write_eof")),
    (web.StreamResponse, ("_start", "write_eof")),
    (web.Request, ("_prepare_hook",)),
    (StreamWriter,
     ("write_headers", "write_eof", "_send_headers_with_payload", "_writelines",
      "drain")),
    (web_response, ("rfc822_formatted_time",)),
)  # fmt: skip
_MADE: Final = (web.Request, web.BaseRequest, web.Response, web.StreamResponse)
# All that they ask and do.
_NAMES: Final = frozenset(
    ("CONNECTION", "CONTENT_LENGTH", "CONTENT_TYPE", "ClientConnectionResetError",
     "DATE", "HttpVersion10", "HttpVersion11", "METH_HEAD", "METH_HEAD_ALL",
     "MIN_PAYLOAD_FOR_WRITELINES", "Payload", "RuntimeError", "SERVER",
     "SERVER_SOFTWARE", "SET_COOKIE", "SKIP_WRITELINES", "TRANSFER_ENCODING",
     "TYPE_CHECKING", "_apps", "_body", "_body_length", "_cached_current_datetime",
     "_cached_formatted_datetime", "_chunked", "_compress", "_compressed_body",
     "_compression", "_cookies", "_drain_helper", "_eof", "_eof_sent", "_headers",
     "_headers_buf", "_headers_written", "_keep_alive", "_length_check", "_match_info",
     "_must_be_empty_body", "_on_chunk_sent", "_on_headers_sent", "_paused",
     "_payload_writer", "_prepare_headers", "_prepare_hook", "_protocol", "_reason",
     "_req", "_send_headers_immediately", "_send_headers_with_payload",
     "_serialize_headers", "_start", "_start_compression", "_status", "_write",
     "_write_headers", "_writelines", "add", "append", "buffer_size", "bytearray",
     "bytes", "cast", "chunked", "close", "compress", "content_length", "drain",
     "enable_chunking", "encode", "flush", "gmtime", "hdrs", "int", "is_closing",
     "isinstance", "join", "keep_alive", "len", "length", "major", "memoryview",
     "method", "minor", "must_be_empty_body", "on_body_write", "on_response_prepare",
     "output", "output_size", "rfc822_formatted_time", "send", "send_headers",
     "setdefault", "should_remove_content_length", "size", "status", "str", "super",
     "time", "transport", "type", "values", "version", "write", "write_eof",
     "write_headers", "writelines")
)  # fmt: skip
_SERIALIZERS: Final = tuple(
    getattr(http_writer, name, None)
    for name in ("_c_serialize_headers", "_py_serialize_headers")
)
_PLACES: Final = (
    (http_writer, "_serialize_headers"),
    *((owner, "__init__") for owner in _MADE),
    *((owner, name) for owner, names in _CALLED for name in names),
)


class KnownWay:
    """Tells whether all that aiohttp calls for an answer is its own, and known.

    It looks at the same things again and again: what was found well is not judged anew.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: list[object] = []

    def is_taken(self) -> bool:
        """Tell it of now."""
        found = [getattr(owner, name, None) for owner, name in _PLACES]
        found += [getattr(each, "__code__", None) for each in found]
        # By identity: a proxy equals what it stands for.
        if len(found) != len(self._known) or not all(map(is_, found, self._known)):
            self._known = found if _answers_as_known() else []
        return bool(self._known)


def _answers_as_known() -> bool:
    return (
        getattr(http_writer, "_serialize_headers", None) in _SERIALIZERS
        # What counts requests and responses must not count those of a trial.
        and all(is_of_aiohttp(each.__init__) for each in _MADE)
        and all(
            uses_only(getattr(owner, name, None), _NAMES)
            for owner, names in _CALLED
            for name in names
        )
    )
