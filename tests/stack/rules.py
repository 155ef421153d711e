"""The shipped alert rules with every duration a sixtieth: minutes become seconds."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from deploy.stack.stack import RULES

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WINDOW: Final = re.compile(r"(?<=\[)(\d+)([smhd])(?=\])")
_OFFSET: Final = re.compile(r"(?<=offset )(\d+)([smhd])\b")
_WAIT: Final = re.compile(r"(?<=(?:for: ))(\d+)([smhd])$", re.MULTILINE)
_INTERVAL: Final = re.compile(r"(?<=interval: )(\d+)([smhd])$", re.MULTILINE)
_FACTOR: Final = 60


def write_short_rules(directory: Path) -> None:
    """Write a shortened copy of each rule file into a directory."""
    directory.mkdir()
    for path in sorted(RULES.glob("*.rules.yaml")):
        text = path.read_text(encoding="utf-8")
        for pattern in (_WINDOW, _OFFSET):
            text = pattern.sub(_shortened(at_least_s=1), text)
        text = _WAIT.sub(_shortened(at_least_s=0), text)
        text = _INTERVAL.sub("1s", text)
        (directory / path.name).write_text(text, encoding="utf-8")


def _shortened(*, at_least_s: int) -> Callable[[re.Match[str]], str]:
    def replace(match: re.Match[str]) -> str:
        seconds = int(match[1]) * _UNITS[match[2]] // _FACTOR
        return f"{max(seconds, at_least_s)}s"

    return replace
