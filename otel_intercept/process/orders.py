"""What server and helper tell each other besides records."""

from typing import NamedTuple

import msgspec

from otel_intercept.record import AttributeValue


class Totals(NamedTuple):
    """What the server knows of records that this helper never got.

    Args:
        exported: Records that earlier helpers exported.
        failed: Records that earlier helpers lost.
        dropped: Records that earlier helpers, or the server, dropped.
        tally: What each counter missed: name, label values, number. Only grows.
        gone: Span ids of roots and exchanges whose end was dropped.
    """

    exported: int
    failed: int
    dropped: int
    tally: tuple[tuple[str, tuple[str | bool, ...], int], ...]
    gone: tuple[int, ...]


class Configure(NamedTuple):
    """How the helper has to export.

    Args:
        environ: The variables of OpenTelemetry and of our own.
        process: Variables that libraries read from the process: proxies and TLS.
        resource: The attributes of the server's resource.
    """

    environ: dict[str, str]
    process: dict[str, str]
    resource: dict[str, AttributeValue]


class Flush(NamedTuple):
    """Export all that came before."""

    number: int
    timeout_s: float


class Fates(NamedTuple):
    """What became of the records that this helper got, as far as it is settled."""

    exported: int
    failed: int
    dropped: int
    held_back: int


class Flushed(NamedTuple):
    """A flush has ended, well or not."""

    number: int
    confirmed: bool


class Logged(NamedTuple):
    """A line for the server's log: a constant text with safe facts."""

    logger: str
    level: int
    text: str


decode_configure = msgspec.msgpack.Decoder(Configure).decode
decode_totals = msgspec.msgpack.Decoder(Totals).decode
decode_keys = msgspec.msgpack.Decoder(tuple[str, ...]).decode
decode_flush = msgspec.msgpack.Decoder(Flush).decode
decode_seconds = msgspec.msgpack.Decoder(float).decode
decode_fates = msgspec.msgpack.Decoder(Fates).decode
decode_flushed = msgspec.msgpack.Decoder(Flushed).decode
decode_logged = msgspec.msgpack.Decoder(Logged).decode
