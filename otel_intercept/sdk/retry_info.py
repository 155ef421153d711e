"""Read from a gRPC status when its sender wants the request again.

Written by hand: it is one number, three messages deep, and their classes have no types.
"""

from collections.abc import Iterator
from typing import Final

_RETRY_INFO: Final = b"google.rpc.RetryInfo"
_NANOS: Final = 1e9


def retry_delay_s(status: bytes) -> float | None:
    """Return the delay of a serialised ``google.rpc.Status``, in seconds.

    Returns:
        The ``retry_delay`` of the ``RetryInfo`` in its details, 0 at least; None when
        there is none, or when it cannot be read.
    """
    try:
        for details in _messages(status, 3):
            if any(url.endswith(_RETRY_INFO) for url in _messages(details, 1)):
                return max(_delay_s(details), 0.0)
    except (IndexError, ValueError):
        return None
    return None


def _delay_s(details: bytes) -> float:
    seconds = 0.0
    for info in _messages(details, 2):
        for duration in _messages(info, 1):
            for number, value in _fields(duration):
                if isinstance(value, int):
                    seconds += value if number == 1 else value / _NANOS
    return seconds


def _messages(message: bytes, number: int) -> Iterator[bytes]:
    for found, value in _fields(message):
        if found == number and isinstance(value, bytes):
            yield value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value, at = _varint(message, at)
        match tag & 7:
            case 0:
                yield tag >> 3, value
            case 2 if at + value <= len(message):
                yield tag >> 3, message[at : at + value]
                at += value
            case _:
                raise ValueError("neither a number nor a text")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while message[at] & 0x80:
        number |= (message[at] & 0x7F) << shift
        shift += 7
        at += 1
    return number | message[at] << shift, at + 1
