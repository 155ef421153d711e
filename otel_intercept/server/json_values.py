"""Read and copy values of unknown origin as JSON: dicts, models and plain objects."""

import json
from collections.abc import Mapping
from typing import TypeAlias

JsonObject: TypeAlias = dict[str, object]


def field(source: object, name: str) -> object:
    """Read a key of a mapping or an attribute of an object; None where it is absent."""
    if isinstance(source, Mapping):
        return source.get(name)
    value: object = getattr(source, name, None)
    return value


def items(value: object) -> list[object]:
    """Give the members of a list or tuple; anything else has none."""
    return list(value) if isinstance(value, list | tuple) else []


def text(value: object, default: str = "") -> str:
    """Give a string as it is, and ``default`` for anything else."""
    return value if isinstance(value, str) else default


def count(value: object) -> int | None:
    """Give an int that is no bool, or None."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return None


def dumped(source: object) -> JsonObject:
    """Give the fields of a mapping or of an object with ``model_dump``, unchanged.

    Raises:
        TypeError: It is neither. What ``model_dump`` raises passes.
    """
    dump = None if isinstance(source, Mapping) else field(source, "model_dump")
    if callable(dump):
        source = dump()
    if not isinstance(source, Mapping):
        raise TypeError("a response must be a mapping or have a model_dump method")
    return dict(source)


def jsonable(value: object) -> object:
    """Copy a value into what JSON can hold; models lose their None fields.

    Raises:
        TypeError: Something in it has no JSON form. What ``model_dump`` raises passes.
        ValueError: It contains itself.
    """
    dump = None if isinstance(value, Mapping) else field(value, "model_dump")
    if callable(dump) and not isinstance(value, type):
        return jsonable(dump(exclude_none=True))
    if isinstance(value, Mapping):
        return {str(key): jsonable(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(member) for member in value]
    copy: object = json.loads(json.dumps(value))
    return copy
