"""Draw span and trace ids from the operating system's randomness, in batches.

Never from ``random``: training code seeds it, and equal seeds gave equal trace ids in
different workers (opentelemetry-python #4376). A forked child draws ids of its own.
"""

import os
import secrets
from struct import Struct
from typing import Final

_IDS: Final = Struct("=512Q")
_drawn: Final[list[int]] = []

draw_span_id: Final = _drawn.pop
"""`new_span_id` without the call, or an IndexError at the end of a batch."""


def new_trace_id() -> int:
    """Return a random 128-bit id that is not zero."""
    return new_span_id() << 64 | new_span_id()


def new_span_id() -> int:
    """Return a random 64-bit id that is not zero. May be called in any thread."""
    try:
        return _drawn.pop()
    except IndexError:
        _drawn.extend(filter(None, _IDS.unpack(secrets.token_bytes(_IDS.size))))
        return new_span_id()


# What is left of a batch must not be used twice, in the parent and in its child.
os.register_at_fork(after_in_child=_drawn.clear)
