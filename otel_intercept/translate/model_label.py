"""Turn model names, which are text from the agent, into a bounded set of labels."""

from otel_intercept import semconv


class ModelLabel:
    """Turns model names into a bounded set of label values.

    A model name is text from the agent, so its number has to be bounded here.

    Args:
        allowed: The names that may be labels; None allows any until the cap.
        cap: Distinct names before the rest becomes ``_OTHER``.
    """

    def __init__(self, allowed: frozenset[str] | None, cap: int) -> None:
        self._allowed = allowed
        self._cap = cap
        self._seen: set[str] = set()

    def __call__(self, model: str | None) -> str:
        """Return the label of a model; ``_OTHER`` when unknown or beyond the cap."""
        if model is None:
            return semconv.OTHER
        if model in self._seen:
            return model
        if self._allowed is not None and model not in self._allowed:
            return semconv.OTHER
        if len(self._seen) >= self._cap:
            return semconv.OTHER
        self._seen.add(model)
        return model
