"""Make sure that a file can be exported to, and is not one of somebody else."""

import json
import os
import stat
from pathlib import Path
from typing import Final

from otel_intercept.cli.output import printable, refuse, sentence_of

SPANS: Final = "resourceSpans"
"""Stands in every line of a file of spans."""

_OWNER_ONLY: Final = 0o600


def claim(path: Path, *, mark: str = SPANS, empty: bool = False) -> bool:
    """Make sure that a file can be written, creating it if need be.

    Args:
        path: The file.
        mark: A word that must stand in the first line of a file that is not empty.
        empty: Whether to delete what it holds.

    Returns:
        Whether the file held something.

    Raises:
        Refused: The file cannot be written, or has another purpose.
    """
    shown = printable(str(path))
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _OWNER_ONLY)
    except OSError as exc:
        refuse(f"cannot write {shown}: {sentence_of(exc)}")
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode):
        os.close(fd)
        refuse(f"cannot write {shown}: it is not a regular file")
    with os.fdopen(fd, "r+b") as file:
        if about.st_size == 0:
            return False
        if not _has_mark(file.readline(), mark):
            refuse(
                f"{shown} exists and is not a file of this command: move it away, or "
                "give another one with --file"
            )
        if empty:
            file.truncate(0)
    return True


def _has_mark(line: bytes, mark: str) -> bool:
    try:
        request = json.loads(line)
    except ValueError:
        return False
    return (
        isinstance(request, dict) and SPANS in request and mark in json.dumps(request)
    )
