"""Send the program's log lines to standard error, and nobody else's."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_OWN: Final = "otel_intercept"
_EXPORT: Final = "reported a problem with telemetry (%s)"
_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"


class _OwnText(logging.Filter):
    """Lets records of this package through, and what ``sdk`` made of exporters' ones.

    The rest may hold text from anywhere: asyncio, for one, logs whole tracebacks.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] == _OWN:
            return True
        return isinstance(record.msg, str) and record.msg.endswith(_EXPORT)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Python from printing log lines of last resort, for the length of a block."""
    with _on_root(logging.NullHandler()):
        yield


@contextmanager
def own_warnings() -> Iterator[None]:
    """Print our own warnings to standard error, for the length of a block."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.addFilter(_OwnText())
    handler.setFormatter(logging.Formatter(_FORMAT))
    with _on_root(handler):
        yield


@contextmanager
def _on_root(handler: logging.Handler) -> Iterator[None]:
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
