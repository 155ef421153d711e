"""The command ``report``: write the rollouts of an OTLP file as one page."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from otel_intercept.cli.output import EXIT_OK, console, printable, refuse, sentence_of
from otel_intercept.cli.reading import read
from otel_intercept.cli.report.page import MARK, page
from otel_intercept.cli.story import RolloutStory, read_all
from otel_intercept.cli.timeline import count


def report(path: Path, output: Path) -> int:
    """Write the page of a file; return the exit code.

    Args:
        path: A file of OTLP JSON lines.
        output: The page. An earlier report is replaced, anything else is not.

    Raises:
        Refused: The file cannot be read or has no rollout, or the page cannot be
            written.
    """
    claim_page(output)
    stories = read(path, read_all)
    if not stories:
        refuse("the file has no rollout at all")
    write_page(output, stories)
    told = f"{count(len(stories), 'rollout')} in {printable(str(output))}"
    console().print(told, soft_wrap=True)
    return EXIT_OK


def page_beside(path: Path) -> Path:
    """Return where the page of a file of spans goes if nobody says where."""
    beside = path.parent / f"{path.stem}.html"
    return path.parent / f"{path.stem}.report.html" if beside == path else beside


def claim_page(output: Path) -> None:
    """Make sure that a page can be written, and replaces nothing but a page of ours.

    Raises:
        Refused: It cannot, or would.
    """
    shown = printable(str(output))
    try:
        if output.is_dir():
            refuse(f"cannot write {shown}: it is a directory")
        if output.exists() and not output.is_file():
            refuse(f"cannot write {shown}: it is not a regular file")
        if output.exists():
            with output.open("rb") as file:
                begin = file.read(len(MARK))
            if begin not in {MARK, b""}:
                refuse(
                    f"{shown} exists and is not a report: move it away, or give "
                    "another one"
                )
        _draft(output).unlink()
    except OSError as exc:
        refuse(f"cannot write {shown}: {sentence_of(exc)}")


def write_page(output: Path, stories: Sequence[RolloutStory]) -> None:
    """Write a page whole or not at all; only its owner can read it.

    Raises:
        Refused: It cannot be written.
    """
    content = page(stories)
    try:
        draft = _draft(output)
        try:
            draft.write_bytes(content)
            draft.replace(output.resolve())
        finally:
            draft.unlink(missing_ok=True)
    except OSError as exc:
        refuse(f"cannot write {printable(str(output))}: {sentence_of(exc)}")


def _draft(output: Path) -> Path:
    # In the same directory, so that it can take the page's place at once.
    handle, name = tempfile.mkstemp(dir=output.resolve().parent, prefix=".report-")
    os.close(handle)
    return Path(name)
