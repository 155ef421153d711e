"""Check the attributes that an operator puts on a rollout."""

import logging
import math
import re
from collections.abc import Mapping
from typing import Final

from otel_intercept.record import Attributes, AttributeValue
from otel_intercept.telemetry import Telemetry

MAX_ATTRIBUTES: Final = 32
MAX_VALUE_LENGTH: Final = 256

_KEY: Final = re.compile(
    r"(?!(error|exception|http|intercept|otel|url)\.)[a-z][a-z0-9_.]{0,63}"
)
"""Not in a namespace whose values the rest of the trace is trusted for."""

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")

_logger = logging.getLogger("otel_intercept.rollout")


def accept_attributes(
    telemetry: Telemetry, attributes: Mapping[str, object] | None
) -> Attributes:
    """Return the attributes that may be exported, and warn of how many may not.

    Never raises, and never renders a value: what is no str, bool, int or finite float
    is left out, and so is a str with a lone surrogate, which no encoding can hold.
    Strings are cut at 256 characters; 32 attributes are kept.
    """
    if not attributes:
        return ()
    accepted: dict[str, AttributeValue] = {}
    for key, value in attributes.items():
        safe = _safe_value(value)
        is_key = type(key) is str and _KEY.fullmatch(key) is not None
        if is_key and safe is not None and len(accepted) < MAX_ATTRIBUTES:
            accepted[key] = safe
    declared = telemetry.declare_attribute_keys(accepted)
    kept = tuple((key, accepted[key]) for key in accepted if key in declared)
    if len(kept) < len(attributes):
        _logger.warning(
            "%d of %d rollout attributes were left out: a key is lower-case letters, "
            "digits, '.' and '_', none of this library's own; a value is a str, bool, "
            "int or float",
            len(attributes) - len(kept),
            len(attributes),
        )
    return kept


def _safe_value(value: object) -> AttributeValue | None:
    kind = type(value)
    if kind is str:
        text = str(value)[:MAX_VALUE_LENGTH]
        return text if _LONE_SURROGATE.search(text) is None else None
    if isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int):
        return value if value.bit_length() < 64 else None
    if kind is float and isinstance(value, float):
        return value if math.isfinite(value) else None
    return None
