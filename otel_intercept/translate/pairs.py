"""Encode the attributes of spans, each once: what was encoded has been checked.

Only what the export guard lets through unchanged is encoded, so that it can be looked
up from then on.
"""

from functools import lru_cache, partial
from itertools import starmap
from typing import Final

from otel_intercept.record import Attributes, AttributeValue
from otel_intercept.translate.cache import Cache
from otel_intercept.translate.guard import Guard, safe_value
from otel_intercept.translate.protobuf import field, key_value, tag, varint

_MAX_PAIRS: Final = 8192

_ATTRIBUTE: Final = tag(9)
_EVENT_ATTRIBUTE: Final = tag(3)

_INT64: Final = 2**63
_SMALL: Final = 4096
"""Numbers below it are seen again: of chunks, or of tokens of short answers."""

_PLAIN: Final = frozenset({int, str, tuple})
"""Values of these types equal none of another type among them."""

_LONGEST: Final = 9
"""Bytes of the longest varint of a positive 64-bit number."""


class NotAllowed(Exception):
    """A span has something in it that the export guard would change."""


class Pairs:
    """Turns keys and values into the attributes of spans and of their events.

    Keeps the encoded form of some thousand, none longer than the guard allows. Used by
    one thread at a time. All methods raise NotAllowed for what the guard would change.

    Args:
        guard: Says what may leave.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        # Typed, since equal numbers of different types are different values.
        self._pair = lru_cache(_MAX_PAIRS, typed=True)(partial(self._new, _ATTRIBUTE))
        self._event_pair = lru_cache(_MAX_PAIRS, typed=True)(
            partial(self._new, _EVENT_ATTRIBUTE)
        )
        # For the plain ones: three times as fast.
        self._known = Cache[tuple[str, AttributeValue], bytes](
            lambda pair: self._new(_ATTRIBUTE, *pair), _MAX_PAIRS
        )
        self._number_heads = Cache(self._new_number_heads, _MAX_PAIRS)

    def attributes(self, pairs: Attributes) -> bytes:
        """Return attributes that some spans have in common."""
        return b"".join(starmap(self._pair, pairs))

    def of_event(self, pairs: Attributes) -> bytes:
        """Return the attributes of an event."""
        return b"".join(starmap(self._event_pair, pairs))

    def values(self, pairs: Attributes) -> bytes:
        """Return attributes that hardly another span has, of which most are numbers."""
        get = self._known.known.get
        return b"".join(
            [
                get(pair) or self._plain(pair)
                if type(pair[1]) in _PLAIN
                else self._pair(*pair)
                for pair in pairs
            ]
        )

    def number(self, key: str, number: int) -> bytes:
        """Return an attribute whose value is from 0 to 2**63 - 1; it is not kept."""
        digits = varint(number)
        return self._number_heads[key][len(digits)] + digits

    def _plain(self, pair: tuple[str, AttributeValue]) -> bytes:
        key, value = pair
        if type(value) is int and _SMALL <= value < _INT64:
            # Not kept: a large number is rarely seen again.
            return self.number(key, value)
        return self._known[pair]

    def _new(self, field_tag: bytes, key: str, value: AttributeValue) -> bytes:
        safe = safe_value(value) if self._guard.allows_key(key) else None
        if safe is None or safe != value:
            raise NotAllowed
        return field(field_tag, key_value(key, safe))

    def _new_number_heads(self, key: str) -> tuple[bytes, ...]:
        # What stands before a number depends on nothing but its length.
        if not self._guard.allows_key(key):
            raise NotAllowed
        pairs = (
            field(_ATTRIBUTE, key_value(key, 1 << 7 * (length - 1)))[:-length]
            for length in range(1, _LONGEST + 1)
        )
        return (b"", *pairs)
