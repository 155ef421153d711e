"""Write the parts of OTLP protobuf messages that spans are made of: pure functions."""

from collections.abc import Iterable
from struct import Struct
from typing import Final

from otel_intercept.record import AttributeValue

_DOUBLE: Final = Struct("<d")
_UINT64: Final = 2**64 - 1
_LENGTH_DELIMITED: Final = 2


_LAST: Final = tuple(number.to_bytes() for number in range(0x80))
_MORE: Final = tuple((number | 0x80).to_bytes() for number in range(0x80))


def varint(number: int) -> bytes:
    """Return an unsigned varint; a negative number as its 64-bit complement."""
    if 0 <= number < 0x4000:
        if number < 0x80:
            return _LAST[number]
        return _MORE[number & 0x7F] + _LAST[number >> 7]
    number &= _UINT64
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def tag(number: int) -> bytes:
    """Return the tag of a length-delimited field: a message, a text or bytes."""
    return varint(number << 3 | _LENGTH_DELIMITED)


_FIRST: Final = tag(1)
_SECOND: Final = tag(2)
_ARRAY: Final = tag(5)


def field(field_tag: bytes, payload: bytes) -> bytes:
    """Return a length-delimited field."""
    return field_tag + varint(len(payload)) + payload


def text(field_tag: bytes, value: str) -> bytes:
    """Return a text field; nothing for an empty text, as proto3 has it."""
    return field(field_tag, value.encode()) if value else b""


def key_values(field_tag: bytes, pairs: Iterable[tuple[str, AttributeValue]]) -> bytes:
    """Return a repeated field of ``KeyValue``."""
    return b"".join(field(field_tag, key_value(key, value)) for key, value in pairs)


def key_value(key: str, value: AttributeValue) -> bytes:
    """Return a ``KeyValue`` message.

    Raises:
        UnicodeEncodeError: A text has a lone surrogate.
    """
    return field(_FIRST, key.encode()) + field(_SECOND, any_value(value))


def any_value(value: AttributeValue) -> bytes:
    """Return an ``AnyValue`` message; its value is there also when it is 0 or empty.

    Raises:
        UnicodeEncodeError: A text has a lone surrogate.
    """
    if isinstance(value, str):
        return field(_FIRST, value.encode())
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + varint(value)
    if isinstance(value, float):
        return b"\x21" + _DOUBLE.pack(value)
    return field(_ARRAY, b"".join(field(_FIRST, any_value(item)) for item in value))
