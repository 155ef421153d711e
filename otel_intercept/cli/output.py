"""Write to the terminal: consoles, and the one line of a program that cannot go on."""

import errno
import io
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NoReturn, TextIO

from rich.console import Console

from otel_intercept.errors import ConfigurationError

PROGRAM: Final = "otel-intercept"

EXIT_OK: Final = 0
EXIT_DIFFERS: Final = 1
EXIT_REFUSED: Final = 2
EXIT_BROKEN: Final = 70
EXIT_INTERRUPTED: Final = 130

_SENTENCES: Final[Mapping[int, str]] = MappingProxyType(
    {
        errno.EACCES: "permission denied",
        errno.EADDRINUSE: "the address is in use",
        errno.EADDRNOTAVAIL: "this machine does not have that address",
        errno.ECONNREFUSED: "the connection was refused",
        errno.EHOSTUNREACH: "the host cannot be reached",
        errno.EISDIR: "it is a directory",
        errno.ENAMETOOLONG: "the name is too long",
        errno.ENETUNREACH: "the network cannot be reached",
        errno.ENOENT: "no such file or directory",
        errno.ENOSPC: "the disk is full",
        errno.ENOTDIR: "a part of the path is not a directory",
        errno.EPERM: "the operation is not permitted",
        errno.EROFS: "the file system is read-only",
        errno.ETIMEDOUT: "the connection timed out",
    }
)


class Refused(Exception):
    """The program cannot go on; the line that says why has been printed."""


def console(stream: TextIO | None = None) -> Console:
    """Return a console on standard output, or on ``stream``.

    Colours and control codes only on a terminal, none with ``NO_COLOR``; characters
    that the stream's encoding lacks are replaced rather than raised on.
    """
    target = sys.stdout if stream is None else stream
    if isinstance(target, io.TextIOWrapper):
        target.reconfigure(errors="replace")
    return Console(file=target, highlight=False, emoji=False, markup=False)


def invocation(argv0: str) -> str:
    """Return how to call this program again.

    Args:
        argv0: How it was called now.
    """
    called = Path(argv0)
    if called.name == "__main__.py":
        return "python -m otel_intercept"
    if called.name == PROGRAM and shutil.which(PROGRAM) is None:
        return printable(os.path.relpath(called))
    return PROGRAM


def refuse(sentence: str) -> NoReturn:
    """Print one line on standard error and give up.

    Args:
        sentence: Our own words, without any text of an exception or a secret.

    Raises:
        Refused: Always; `main` turns it into exit code 2.
    """
    complain(sentence)
    raise Refused


def complain(sentence: str) -> None:
    """Print one line on standard error."""
    print(f"{PROGRAM}: {printable(sentence)}", file=sys.stderr)


def own_words(mistake: ConfigurationError) -> str:
    """Return what a mistake of ours says: constant sentences and names, by contract."""
    return str(mistake)


def printable(text: str) -> str:
    """Return the text with control characters replaced, so that it stays one line."""
    return "".join(char if char.isprintable() else "?" for char in text)


def sentence_of(exc: OSError) -> str:
    """Return our own words for a failed system call, never the system's text."""
    number = errno.ETIMEDOUT if isinstance(exc, TimeoutError) else exc.errno
    if number is None:
        return "the operation failed"
    if number < 0:
        # The codes of name resolution are negative.
        return "the host name is unknown"
    known = _SENTENCES.get(number)
    if known is not None:
        return known
    return f"the operation failed ({errno.errorcode.get(number, 'unknown error')})"
