"""Wrap functions of another project when they are imported, and undo it all."""

import logging
import sys
from collections.abc import Callable, Mapping
from types import MethodType, ModuleType
from typing import Final, Protocol, TypeAlias

import wrapt
from aiohttp import web

_MISSING: Final = object()

_logger: Final = logging.getLogger("otel_intercept.instrumentation")


class Wrapper(Protocol):
    """Stands in for a function: calls it once, and observes it."""

    def __call__(
        self,
        wrapped: Callable[..., object],
        instance: object,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        /,
    ) -> object:
        """Call ``wrapped`` with the arguments, and return what it returns."""
        ...


_Applied: TypeAlias = tuple[object, str, object, Wrapper]


def is_routed(route: web.AbstractRoute, wrapped: Callable[..., object]) -> bool:
    """Tell whether aiohttp itself calls our wrapper of a method for a route.

    Otherwise what the method returns may change on the way: by a method of a subclass
    that calls it, or by what others have put around it.

    Args:
        route: The route of a request.
        wrapped: The method that our wrapper was called with, bound.
    """
    handler: object = route.handler
    # A proxy of others has the attributes of what it stands for.
    if type(handler) is not wrapt.BoundFunctionWrapper:
        return False
    method = handler.__wrapped__
    return type(method) is MethodType and method == wrapped


class Patches:
    """The functions that are wrapped, with what they were before.

    A module that is not imported yet is patched when it is, so that nothing heavy is
    imported for it. Where a function is missing, one WARNING says which; the rest is
    patched all the same, and the other project's import goes on.
    """

    def __init__(self) -> None:
        self._applied: list[_Applied] = []
        self._active = True

    def wrap(self, module: str, path: str, wrapper: Wrapper) -> None:
        """Wrap ``path`` (``name`` or ``Class.name``) of a module, now or on import.

        A class attribute that is inherited is wrapped on this class alone. What the
        same wrapper wraps already, as under another name of the module, stays as it is.
        """

        def apply(imported: ModuleType) -> None:
            if self._active:
                self._apply(imported, path, wrapper)

        self.when_imported(module, apply)

    def when_imported(self, module: str, action: Callable[[ModuleType], None]) -> None:
        """Call ``action`` with a module once it is imported; now if it is already."""

        def shielded(imported: ModuleType) -> None:
            if not self._active:
                return
            try:
                action(imported)
            except Exception:  # noqa: BLE001 - their import must not pay for our mistake
                _logger.warning("%s could not be instrumented", module)

        present = sys.modules.get(module)
        if present is not None:
            shielded(present)
        else:
            wrapt.register_post_import_hook(shielded, module)

    def undo(self) -> None:
        """Put back what was there, latest first, and patch nothing any more."""
        self._active = False
        while self._applied:
            parent, name, original, _ = self._applied.pop()
            if original is _MISSING:
                delattr(parent, name)
            else:
                setattr(parent, name, original)

    def _apply(self, module: ModuleType, path: str, wrapper: Wrapper) -> None:
        *owners, name = path.split(".")
        parent: object = module
        for owner in owners:
            parent = getattr(parent, owner, None)
        function = getattr(parent, name, None)
        if function is None:
            _logger.warning(
                "%s has no %s: this release of it is observed in part",
                module.__name__,
                path,
            )
            return
        if any(
            done[:2] == (parent, name) and done[3] == wrapper for done in self._applied
        ):
            return
        own = vars(parent).get(name, _MISSING)
        setattr(
            parent,
            name,
            wrapt.FunctionWrapper(function if own is _MISSING else own, wrapper),
        )
        self._applied.append((parent, name, own, wrapper))
