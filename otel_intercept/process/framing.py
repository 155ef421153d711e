"""Cut a stream of bytes into frames: a length, a kind, a flag and a payload."""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

import msgspec

MAX_FRAME: Final = 1 << 20
"""Bytes of the longest payload. A longer one means that sender and reader disagree."""

_HEADER: Final = struct.Struct("<IBB")
_HEADER_SIZE: Final = _HEADER.size
_pack: Final = _HEADER.pack
_unpack: Final = _HEADER.unpack_from


class Kind(IntEnum):
    """What a payload is: first what the server sends, then what the helper answers."""

    CONFIGURE = 1
    ROLLOUT_STARTED = 2
    ROLLOUT_RESUMED = 3
    ROLLOUT_ENDED = 4
    EXCHANGE_STARTED = 5
    EXCHANGE_ENDED = 6
    FAILURE_SEEN = 7
    TOTALS = 8
    DECLARE = 9
    FLUSH = 10
    SHUTDOWN = 11
    READY = 32
    REFUSED = 33
    FATES = 34
    FLUSHED = 35
    LOGGED = 36


class OutOfStepError(ValueError):
    """The stream holds no frames any more; nothing behind this point can be read."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame as it arrived.

    Args:
        kind: What it says it is; any byte.
        counts: Whether it is a record that counts in the balance.
        payload: What is to be decoded.
    """

    kind: int
    counts: bool
    payload: bytes


class Framer:
    """Makes frames. For one thread at a time."""

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder().encode

    def frame(self, kind: Kind, message: object, *, counts: bool = False) -> bytes:
        """Return the frame of a message.

        Raises:
            ValueError: It is too long, or holds a text that is no Unicode.
            OverflowError: It holds an integer beyond 64 bits.
        """
        data = self._encode(message)
        length = len(data)
        if length > MAX_FRAME:
            raise ValueError("a message is too long for a frame")
        return _pack(length, kind, counts) + data


class FrameReader:
    """Collects what was read until whole frames are there."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete now.

        Raises:
            OutOfStepError: A length is impossible.
        """
        data = self._rest + data
        at, size = 0, len(data)
        try:
            while (start := at + _HEADER_SIZE) <= size:
                length, kind, counts = _unpack(data, at)
                if length > MAX_FRAME:
                    raise OutOfStepError("a frame has an impossible length")
                end = start + length
                if end > size:
                    break
                at = end
                yield Frame(kind, counts != 0, data[start:end])
        finally:
            self._rest = data[at:]
