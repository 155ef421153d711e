"""Put our words in place of error texts, on traces and in answers, where asked to."""

import sys

from otel_intercept import failure as failures
from otel_intercept.current import current_exchange
from otel_intercept.dialect import error_message
from otel_intercept.errors import InterceptionError
from otel_intercept.instrumentation.verifiers.calls import (
    Args,
    Call,
    Kwargs,
    argument,
)
from otel_intercept.instrumentation.verifiers.host import Host
from otel_intercept.instrumentation.verifiers.v1_shapes import (
    errors_of,
    is_hook_error,
)
from otel_intercept.semconv import ErrorType, Phase
from otel_intercept.shield import shielded

_CANCELLED = "cancelled"
_THEIR_WORDS = ("rollout stopped: ", "rollout concluded")


class Redaction:
    """The wrappers that change what is stored and sent.

    Args:
        host: The instrumented process.
    """

    def __init__(self, host: Host) -> None:
        self._key = host.telemetry.settings.fingerprint_key

    def stand_in(self, error: BaseException) -> BaseException:
        """Return an error to be recorded instead: same class name, our words.

        It passes as a ``ProviderError``, for which no traceback is kept. Watchers of a
        trace see a call as it is recorded, so redacting it afterwards were too late.
        """
        errors = sys.modules.get("verifiers.v1.errors")
        provider: object = getattr(errors, "ProviderError", None)
        base: type = Exception
        if isinstance(provider, type) and issubclass(provider, Exception):
            base = provider
        named = type(type(error).__name__, (base,), {})
        try:
            stand_in: object = named(self._words(error))
            vars(stand_in)["status_code"] = getattr(error, "status_code", None)
        except Exception:  # noqa: BLE001 - their traffic must not pay for our mistake
            stand_in = None
        return stand_in if isinstance(stand_in, Exception) else Exception()

    @shielded
    def redact_last_error(self, trace: object, error: BaseException) -> None:
        """Redact the error that a trace has recorded last."""
        for recorded in errors_of(trace)[-1:]:
            vars(recorded)["message"] = self._words(error)
            vars(recorded)["traceback"] = None

    def error_body(
        self, wrapped: Call, _dialect: object, args: Args, kwargs: Kwargs
    ) -> object:
        """Give their error body with our words, where an exception is answered for."""
        exc = sys.exception()
        message = argument(args, kwargs, 0, "message")
        if exc is None or not isinstance(message, str) or current_exchange() is None:
            return wrapped(*args, **kwargs)
        if message.startswith(_THEIR_WORDS):
            return wrapped(*args, **kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name != "message"}
        failure = self._describe(exc)
        return wrapped(error_message(failure.error_type), *args[1:], **kwargs)

    def _words(self, error: BaseException) -> str:
        if failures.is_cancellation(error):
            return _CANCELLED
        return f"{InterceptionError(self._describe(error))}"

    def _describe(self, error: BaseException) -> failures.Failure:
        hook = is_hook_error(error)
        return failures.describe(
            error,
            phase=Phase.HANDLER if hook else Phase.UPSTREAM_CALL,
            key=self._key,
            default=ErrorType.HANDLER_ERROR if hook else ErrorType.OTHER,
        )
