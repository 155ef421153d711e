"""Call functions of another project from their wrappers."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from aiohttp import web

Call: TypeAlias = Callable[..., object]
Args: TypeAlias = tuple[object, ...]
Kwargs: TypeAlias = Mapping[str, object]


def argument(args: Args, kwargs: Kwargs, index: int, name: str) -> object:
    """Return an argument, given by place or by name; None if it is not given."""
    return args[index] if len(args) > index else kwargs.get(name)


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
