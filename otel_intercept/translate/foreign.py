"""What texts may stand on the spans of other libraries: words of closed sets.

Other libraries put paths, class names and text of the agent under keys that are safe on
our spans.
"""

import builtins
from collections.abc import Mapping
from typing import Final

from otel_intercept import semconv
from otel_intercept.semconv import ErrorType
from otel_intercept.taxonomy.classes import CLASSES

BARE_METHODS: Final = frozenset(
    {
        "CONNECT", "DELETE", "GET", "HEAD", "HTTP", "OPTIONS", "PATCH", "POST", "PUT",
        "QUERY", "TRACE",
    }
)  # fmt: skip
"""The only names that spans of other libraries keep."""

_BUILTINS: Final = frozenset(
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
)
# With and without the module: instrumentations write both.
_CLASSES: Final = (
    _BUILTINS | CLASSES.keys() | {name.rpartition(".")[2] for name in CLASSES}
)
_STATUSES: Final = frozenset(f"{status}" for status in range(400, 600))

_WORDS: Final[Mapping[str, frozenset[str]]] = {
    semconv.HTTP_REQUEST_METHOD: BARE_METHODS | {semconv.OTHER},
    semconv.URL_SCHEME: frozenset({"http", "https"}),
    semconv.ERROR_TYPE: _CLASSES | _STATUSES | frozenset(ErrorType),
    semconv.EXCEPTION_TYPE: _CLASSES,
}


def is_safe_abroad(key: str, value: object) -> bool:
    """Tell whether a value may stand on a span of another library.

    Args:
        key: A key that is allowed on our spans.
        value: A value of an allowed type. Numbers and flags are safe; texts are if the
            key's closed set has them, or if they are a route, which comes from code.
    """
    if isinstance(value, (bool, int, float)):
        return True
    return key == semconv.HTTP_ROUTE or value in _WORDS.get(key, ())
