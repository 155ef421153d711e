"""Tell what a class means by its names, and which of its names is safe to say."""

import re
import sys
from abc import ABCMeta
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from otel_intercept.taxonomy.classes import CLASSES, QUOTABLE
from otel_intercept.taxonomy.known import Known

_MAX_NAME: Final = 128
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")

_Fields: TypeAlias = Callable[[object], Mapping[str, object]]

# Attribute access on a class can run code of its metaclass; these descriptors cannot.
_MRO: Final[Callable[[type], tuple[type, ...]]] = vars(type)["__mro__"].__get__
_MODULE: Final[Callable[[type], object]] = vars(type)["__module__"].__get__
_QUALNAME: Final[Callable[[type], object]] = vars(type)["__qualname__"].__get__
_CLASS_FIELDS: Final[_Fields] = vars(type)["__dict__"].__get__
_MODULE_FIELDS: Final[_Fields] = vars(ModuleType)["__dict__"].__get__


class Kind(NamedTuple):
    """What a class is.

    Args:
        name: A name that importing proves true: the class's own, or its nearest base's.
        known: What is known of it or its nearest known base, or None.
        quotable: Whether it is exactly a class that says fixed sentences.
    """

    name: str
    known: Known | None
    quotable: bool


_KINDS: Final[WeakKeyDictionary[type, Kind]] = WeakKeyDictionary()


def kind_of(cls: type) -> Kind:
    """Return what an exception class is; the answer is kept while the class lives."""
    # Another metaclass can have a ``__hash__`` or ``__eq__``, which a lookup would run.
    if type(cls) is not type and type(cls) is not ABCMeta:
        return _look_up(cls)
    kind = _KINDS.get(cls)
    if kind is None:
        kind = _KINDS[cls] = _look_up(cls)
    return kind


def dotted(cls: type) -> str:
    """Return the name that a class claims to have: to be looked up, not to be said."""
    return ".".join(_own_names(cls))


def is_importable(cls: type) -> bool:
    """Return whether importing a class by its own name gives this very class.

    A class can be made and named from data, and so can a module: only one that the
    import system has loaded counts. ``__main__`` is another module in another process.
    """
    module_name, qualname = _own_names(cls)
    module = sys.modules.get(module_name)
    if module_name == "__main__" or not issubclass(type(module), ModuleType):
        return False
    name = dotted(cls)
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        return False
    fields = _MODULE_FIELDS(module)
    if type(fields.get("__spec__")) is not ModuleSpec:
        return False
    found: object = None
    for part in qualname.split("."):
        found = fields.get(part)
        if not issubclass(type(found), type):
            return False
        fields = _CLASS_FIELDS(found)
    return found is cls


def _look_up(cls: type) -> Kind:
    """Find the nearest importable and the nearest known class among the bases."""
    bases = _MRO(cls)
    nearest = next(base for base in bases if is_importable(base))
    known = (CLASSES.get(dotted(base)) for base in bases)
    return Kind(
        name=dotted(nearest).removeprefix("builtins."),
        known=next((found for found in known if found is not None), None),
        quotable=nearest is cls and _own_names(cls)[0] in QUOTABLE,
    )


def _own_names(cls: type) -> tuple[str, str]:
    """Return module and qualified name; empty where either is no exact string."""
    try:
        module, qualname = _MODULE(cls), _QUALNAME(cls)
    except AttributeError:
        return "", ""
    if type(module) is str and type(qualname) is str:
        return module, qualname
    return "", ""
