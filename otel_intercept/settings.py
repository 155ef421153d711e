"""Operator settings of telemetry: one frozen object, validated when it is made."""

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from otel_intercept.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import ExemplarFilter
    from opentelemetry.sdk.trace.sampling import Sampler

MAX_EXPORT_BATCH_SIZE: Final = 4096
_MIN_KEY_BYTES: Final = 16
_KEY_BYTES: Final = 32


def _random_key() -> bytes:
    return secrets.token_bytes(_KEY_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How telemetry samples, queues, batches and labels.

    Args:
        fingerprint_key: Key of the failure fingerprints, at least 16 bytes. Random per
            process by default; give the same one to compare processes. Not in ``repr``.
        queue_size: Records that may wait for export before ordinary ones are dropped.
            Records of failures and of ended rollouts have a reserve on top.
        schedule_delay_s: Seconds that an ended record waits at most for its batch.
        export_batch_size: Records per export request, 1 to 4096. A backlog makes the
            batches larger, up to 4096.
        models: Model names that may become a metric label; the others count as
            ``_OTHER``. None allows any name until ``model_cap``.
        model_cap: Distinct model names per process before the rest is ``_OTHER``.
        sampler: Decides once per rollout which rollouts have spans. None takes all.
            Metrics count every rollout either way.
        exemplar_filter: Which measurements link to their span. None takes those of
            sampled rollouts.
        recorder: ``thread`` exports in the background; ``process`` in a helper process
            (only of ``otel_intercept.sdk.configure``); ``inline`` only in ``flush`` and
            ``shutdown``, in the thread that calls them (for tests).

    Raises:
        ConfigurationError: A value is out of range. The message does not repeat it.
    """

    fingerprint_key: bytes = field(default_factory=_random_key, repr=False)
    queue_size: int = 65536
    schedule_delay_s: float = 1.0
    export_batch_size: int = 512
    models: frozenset[str] | None = None
    model_cap: int = 64
    sampler: "Sampler | None" = None
    exemplar_filter: "ExemplarFilter | None" = None
    recorder: Literal["thread", "process", "inline"] = "thread"

    def __post_init__(self) -> None:
        if len(self.fingerprint_key) < _MIN_KEY_BYTES:
            raise ConfigurationError("fingerprint_key must have at least 16 bytes")
        if self.queue_size < 1:
            raise ConfigurationError("queue_size must be at least 1")
        if not 0 < self.schedule_delay_s <= 3600:
            raise ConfigurationError("schedule_delay_s must be above 0, at most 3600")
        if not 1 <= self.export_batch_size <= MAX_EXPORT_BATCH_SIZE:
            raise ConfigurationError("export_batch_size must be from 1 to 4096")
        if self.model_cap < 0:
            raise ConfigurationError("model_cap must not be negative")
        if self.recorder not in ("thread", "process", "inline"):
            raise ConfigurationError("recorder must be 'thread', 'process' or 'inline'")
