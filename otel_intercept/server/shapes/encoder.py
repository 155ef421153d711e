"""What every stream encoder offers, and the bytes of one event."""

import json
from collections.abc import Mapping
from typing import Protocol

from otel_intercept.dialect import DONE

DONE_EVENT = b"data: " + DONE + b"\n\n"


class StreamEncoder(Protocol):
    """Turns the chunks of one stream into the events of one dialect."""

    def encode(self, chunk: Mapping[str, object]) -> bytes:
        """Give the events of one chunk; none for a chunk that says nothing.

        Raises:
            TypeError, ValueError: The chunk has no JSON form.
        """
        ...

    def end(self, *, failed: bool = False) -> bytes:
        """Give the events that end the stream.

        Without any chunk before, they are the dialect's terminal event alone.

        Args:
            failed: Whether an error frame has been sent.
        """
        ...


def data_event(data: object) -> bytes:
    """Write an event without a name."""
    return f"data: {json.dumps(data)}\n\n".encode()


def named_event(name: str, data: Mapping[str, object]) -> bytes:
    """Write an event with a name."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
