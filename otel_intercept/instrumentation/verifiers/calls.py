"""Call functions of another project from their wrappers."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias, TypeGuard

from aiohttp import web
from aiohttp.typedefs import Handler

Call: TypeAlias = Callable[..., object]
Args: TypeAlias = tuple[object, ...]
Kwargs: TypeAlias = Mapping[str, object]


def argument(args: Args, kwargs: Kwargs, index: int, name: str) -> object:
    """Return an argument, given by place or by name; None if it is not given."""
    return args[index] if len(args) > index else kwargs.get(name)


def is_handler(_call: Call, args: Args, kwargs: Kwargs) -> TypeGuard[Handler]:
    """Tell whether a function is called as aiohttp calls a handler.

    What it returns is then for aiohttp to take or to refuse.
    """
    return len(args) == 1 and not kwargs


async def result_of(call: Call, args: Args, kwargs: Kwargs) -> object:
    """Call a function, and await what it returns if that can be awaited."""
    result = call(*args, **kwargs)
    return await result if isinstance(result, Awaitable) else result


async def response_of(call: Call, args: Args, kwargs: Kwargs) -> web.StreamResponse:
    """Call a handler of aiohttp, and return its response.

    Raises:
        TypeError: It returned something else, which aiohttp would raise at too.
    """
    response = await result_of(call, args, kwargs)
    if not isinstance(response, web.StreamResponse):
        raise TypeError("a handler returned no response")
    return response
