"""Cut a stream of bytes into frames: a length, a kind, a flag and a payload."""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

import msgspec

MAX_FRAME: Final = 1 << 20
"""Bytes of the longest payload. A longer one means that sender and reader disagree."""

_SHORT: Final = 512

_HEADER: Final = struct.Struct("<IH")
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
    COMMON = 12
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


class Run(msgspec.Struct, frozen=True, gc=False):
    """Frames that arrived in a row and differ in their payload only."""

    kind: int
    counts: bool
    payloads: list[bytes]


class Framer:
    """Makes frames. For one thread at a time.

    Attributes:
        encode: Returns the payload of a message; raises what `frame` does.
    """

    def __init__(self) -> None:
        self.encode = msgspec.msgpack.Encoder().encode

    def frame(self, kind: Kind, message: object, *, counts: bool = False) -> bytes:
        """Return the frame of a message.

        Raises:
            ValueError: It is too long, or holds a text that is no Unicode.
            OverflowError: It holds an integer beyond 64 bits.
        """
        data = self.encode(message)
        length = len(data)
        if length > MAX_FRAME:
            raise ValueError("a message is too long for a frame")
        return _pack(length, kind | counts << 8) + data

    @staticmethod
    def heads(kind: Kind, *, counts: bool) -> list[bytes]:
        """Return what stands before a payload, by its length, as long as that is short.

        For who makes many frames of a kind: packing one takes ten times as long.
        """
        return [_pack(length, kind | counts << 8) for length in range(_SHORT)]


class FrameReader:
    """Collects what was read until whole frames are there."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete now.

        Raises:
            OutOfStepError: A length is impossible.
        """
        for run in self.feed_runs(data):
            for payload in run.payloads:
                yield Frame(run.kind, run.counts, payload)

    def feed_runs(self, data: bytes) -> Iterator[Run]:
        """Yield the frames that are complete now as the longest runs of a kind.

        Raises:
            OutOfStepError: A length is impossible.
        """
        data = self._rest + data
        at, size, in_step = 0, len(data), True
        head = -1
        payloads: list[bytes] = []
        try:
            while (start := at + _HEADER_SIZE) <= size:
                length, next_head = _unpack(data, at)
                in_step = length <= MAX_FRAME
                end = start + length
                if end > size or not in_step:
                    break
                if next_head != head:
                    if payloads:
                        yield _run(head, payloads)
                    head, payloads = next_head, []
                payloads.append(data[start:end])
                at = end
            if payloads:
                yield _run(head, payloads)
            if not in_step:
                raise OutOfStepError("a frame has an impossible length")
        finally:
            self._rest = data[at:]


def _run(head: int, payloads: list[bytes]) -> Run:
    return Run(head & 0xFF, head > 0xFF, payloads)
