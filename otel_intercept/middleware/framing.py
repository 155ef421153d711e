"""Frame a small chunk of a body in one step, where aiohttp is known to do no more.

aiohttp's writer takes three methods and a dozen objects for it. The bytes are the same,
and go to the transport in one piece.
"""

from functools import lru_cache
from operator import attrgetter
from typing import Final

from aiohttp.http import StreamWriter

from otel_intercept.middleware.trial import TrialTransport, trial_writer, uses_only

FRAME: Final = b"%x\r\n%b\r\n"
"""A chunk in the chunked encoding; takes its size and the chunk."""

SMALL: Final = 2_000
"""A chunk of fewer bytes is joined with its frame; larger ones need not be copied."""

# Whatever aiohttp asks before it frames a chunk, as it does so, and after it.
_KNOWN_NAMES: Final = {
    "write": frozenset(
        ("_on_chunk_sent", "on_body_write", "isinstance", "memoryview", "nbytes", "len",
         "cast", "_compress", "compress", "output_size", "length", "_headers_buf",
         "_headers_written", "_send_headers_with_payload", "chunked", "_write",
         "_write_chunked_payload", "buffer_size", "drain")
    ),
    "_write_chunked_payload": frozenset(("len", "encode", "_writelines")),
    "_writelines": frozenset(
        ("len", "buffer_size", "output_size", "_protocol", "transport", "is_closing",
         "ClientConnectionResetError", "SKIP_WRITELINES", "MIN_PAYLOAD_FOR_WRITELINES",
         "write", "join", "writelines")
    ),
}  # fmt: skip
_methods: Final = attrgetter(*_KNOWN_NAMES)


def is_as_known(writer: StreamWriter) -> bool:
    """Tell whether aiohttp still does with a small chunk what `FRAME` does.

    It does not in a later release that goes another way, nor where others have put
    something in place of a method: that uses other names. What uses the known ones is
    tried, once.

    Args:
        writer: A writer whose body is sent in chunks, and is not compressed.
    """
    own = vars(writer)
    if own.get("_on_chunk_sent") is not None or not _KNOWN_NAMES.keys().isdisjoint(own):
        return False
    try:
        return _do_as_known(*_methods(StreamWriter))
    except (AttributeError, TypeError):
        return False  # one is missing, or is something that cannot be looked up


@lru_cache(maxsize=8)
def _do_as_known(*methods: object) -> bool:
    """Look at the code of the methods, and try what they do together."""
    known = zip(methods, _KNOWN_NAMES.values(), strict=True)
    return all(uses_only(method, names) for method, names in known) and all(
        _frames_as_known(size) for size in (1, SMALL - 1)
    )


def _frames_as_known(size: int) -> bool:
    chunk = b"x" * size
    transport = TrialTransport()
    writer = trial_writer(transport)
    writer._write_chunked_payload(chunk)  # noqa: SLF001 - what is tried
    framed = FRAME % (size, chunk)
    counted = writer.buffer_size, writer.output_size
    return transport.written == [(framed,)] and counted == (len(framed), len(framed))
