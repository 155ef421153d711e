"""Draw span and trace ids from the operating system's randomness.

Never from ``random``: training code seeds it, and equal seeds gave equal trace ids in
different workers (opentelemetry-python #4376).
"""

import secrets


def new_trace_id() -> int:
    """Return a random 128-bit id that is not zero."""
    return secrets.randbits(128) or new_trace_id()


def new_span_id() -> int:
    """Return a random 64-bit id that is not zero."""
    return secrets.randbits(64) or new_span_id()
