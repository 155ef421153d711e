"""Take single values out of bodies: each has an exact type and a bound.

Bodies hold prompts, completions and ids, so nothing is copied by default: each value
has a named key, and each string is from a closed set or looks like a model name.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from otel_intercept.semconv import OTHER

MAX_MODEL: Final = 96
"""Characters of a model's name."""

MAX_REMEMBERED: Final = 1024
"""What is remembered of what is short and comes again, of each kind."""

INT64: Final = 2**63

_MODEL: Final = re.compile(r"[A-Za-z0-9][\w.:/@+-]{0,95}", re.ASCII)


def mapping_of(value: object) -> Mapping[str, object]:
    """Return a JSON object as it is, and anything else as an empty one."""
    # Bodies are dicts nearly always, and the check for Mapping is slow.
    if type(value) is dict:
        return value
    return value if isinstance(value, Mapping) else {}


def model_of(value: object) -> str | None:
    """Return the name of a model; ``_OTHER`` for what is none; None for None."""
    return None if value is None else named(value)


def named(value: object) -> str:
    """Return the name of a model, or ``_OTHER`` for what is none."""
    if type(value) is str and len(value) <= MAX_MODEL:
        return _model_name(value)
    return OTHER


@lru_cache(maxsize=MAX_REMEMBERED)
def _model_name(text: str) -> str:
    return text if _MODEL.fullmatch(text) else OTHER
