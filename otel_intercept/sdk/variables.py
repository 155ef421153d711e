"""Read single environment variables; errors have the name, never the value."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from otel_intercept.errors import ConfigurationError

_HEADER_NAME: Final = re.compile(r"[a-z0-9_.\-]+")
_PRINTABLE_ASCII: Final = re.compile(r"[\x20-\x7e]*")


class Variables:
    """A mapping of environment variables with typed, strict reads.

    An empty or blank variable counts as not set, as the OTel specification says. Every
    read raises ConfigurationError for a value that is not allowed; the message has the
    variable's name and what is allowed.

    Args:
        environ: The variables.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def first(self, *names: str) -> str | None:
        """Return the first of these variables that is set, or None."""
        for name in names:
            if self.text(name) is not None:
                return name
        return None

    def text(self, name: str) -> str | None:
        """Return the variable without outer blanks, or None when it is not set."""
        return self._environ.get(name, "").strip() or None

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a ``true`` or ``false``, in any case."""
        value = self.text(name)
        if value is None:
            return default
        if value.lower() not in ("true", "false"):
            raise ConfigurationError(f"{name} must be true or false")
        return value.lower() == "true"

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """Return one of the allowed words, in lower case."""
        value = (self.text(name) or default).lower()
        if value not in allowed:
            raise ConfigurationError(f"{name} must be one of: {', '.join(allowed)}")
        return value

    def words(self, name: str) -> tuple[str, ...]:
        """Return a comma-separated list without blanks and empty items."""
        items = (item.strip() for item in (self.text(name) or "").split(","))
        return tuple(item for item in items if item)

    def number(
        self, name: str, *, default: float, low: float, high: float, unit: str = ""
    ) -> float:
        """Return a number from ``low`` to ``high``, both allowed."""
        value = self.text(name)
        if value is None:
            return default
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            what = f"a number of {unit}" if unit else "a number"
            raise ConfigurationError(f"{name} must be {what} from {low:g} to {high:g}")
        return number

    def whole(self, name: str, *, default: int, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``, both allowed."""
        number = self.number(name, default=default, low=low, high=high)
        if number != int(number):
            raise ConfigurationError(
                f"{name} must be a whole number from {low} to {high}"
            )
        return int(number)

    def file(self, name: str) -> str | None:
        """Return the path of a file that can be read now, or None when not set."""
        path = self.text(name)
        if path is None:
            return None
        try:
            with Path(path).open("rb"):
                pass
        except (OSError, ValueError):
            readable = False
        else:
            readable = True
        if not readable:
            raise ConfigurationError(f"{name} must name a file that can be read")
        return path

    def pairs(self, name: str) -> dict[str, str]:
        """Return ``key=value`` items, separated by commas, percent-decoded."""
        pairs: dict[str, str] = {}
        for item in self.words(name):
            key, equals, value = item.partition("=")
            if not equals or not key.strip():
                raise ConfigurationError(
                    f"{name} must be a list of key=value, separated by commas"
                )
            pairs[unquote(key.strip())] = unquote(value.strip())
        return pairs

    def headers(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return header names, in lower case, and values that can be sent."""
        headers = {key.lower(): value for key, value in self.pairs(name).items()}
        for key, value in headers.items():
            if not (_HEADER_NAME.fullmatch(key) and _PRINTABLE_ASCII.fullmatch(value)):
                raise ConfigurationError(
                    f"{name} must be a list of name=value, separated by commas, in "
                    "ASCII, with percent-encoding for commas"
                )
        return tuple(headers.items())
