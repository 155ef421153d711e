"""Read a file of spans, or say in one line why it cannot be read."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from otel_intercept.cli.output import own_words, printable, refuse, sentence_of
from otel_intercept.errors import ConfigurationError

_Told = TypeVar("_Told")


def read(path: Path, tell: Callable[[Path], _Told]) -> _Told:
    """Return what ``tell`` makes of a file.

    Args:
        path: A file of OTLP JSON lines.
        tell: Reads it; may raise ConfigurationError.

    Raises:
        Refused: The file cannot be read, or is of another kind.
    """
    shown = printable(str(path))
    try:
        path.open("rb").close()
    except OSError as exc:
        refuse(f"cannot read {shown}: {sentence_of(exc)}")
    try:
        return tell(path)
    except ConfigurationError as mistake:
        refuse(f"cannot use {shown}: {own_words(mistake)}")
