# The types of the module itself are switched off at its top.

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection

class BaseInstrumentor(ABC):
    # Each subclass has keyword arguments of its own.
    instrument: Callable[..., None]
    @property
    def is_instrumented_by_opentelemetry(self) -> bool: ...
    @abstractmethod
    def instrumentation_dependencies(self) -> Collection[str]: ...
    def uninstrument(self) -> None: ...
    @abstractmethod
    def _uninstrument(self) -> None: ...
