"""Read what an upstream's answer says about itself: an error, or usage."""

import asyncio
import json
from collections.abc import Mapping
from typing import Final

import aiohttp
from aiohttp import hdrs

from otel_intercept.dialect import error_words
from otel_intercept.server.json_values import JsonObject

MAX_DESCRIBED_BYTES: Final = 1_048_576
"""Size of a JSON answer beyond which it is passed on without being parsed."""

_MAX_ERROR_BYTES: Final = 65_536
_ERROR_BODY_S: Final = 5.0


class UpstreamRefused(Exception):
    """An upstream answered with an error.

    Args:
        status: The HTTP status.
        words: Type and code from the body: looked up in closed maps, never exported.
    """

    def __init__(
        self, status: int, words: tuple[str | None, str | None] = (None, None)
    ) -> None:
        super().__init__()
        self.status = status
        self.type, self.code = words


class JsonCopy:
    """A copy of a JSON answer on its way through, unless it is too large.

    Args:
        upstream: The answer, whose headers tell whether it is plain JSON.
    """

    __slots__ = ("_data",)

    def __init__(self, upstream: aiohttp.ClientResponse) -> None:
        plain = hdrs.CONTENT_ENCODING not in upstream.headers
        is_json = upstream.content_type == "application/json"
        self._data = bytearray() if plain and is_json else None

    def add(self, data: bytes) -> None:
        """Take in the next bytes."""
        if self._data is None:
            return
        self._data += data
        if len(self._data) > MAX_DESCRIBED_BYTES:
            self._data = None

    @property
    def is_whole(self) -> bool:
        """Whether all of the answer is here, plain JSON by its headers."""
        return self._data is not None

    def body(self) -> JsonObject | None:
        """Give the JSON object, or None where there is none."""
        return None if self._data is None else parse_object(self._data)


async def read_error(upstream: aiohttp.ClientResponse) -> bytes:
    """Read the beginning of an error's body, in bounded size and time."""
    data = bytearray()
    try:
        async with asyncio.timeout(_ERROR_BODY_S):
            while len(data) < _MAX_ERROR_BYTES:
                piece = await upstream.content.readany()
                if not piece:
                    break
                data += piece
    except (aiohttp.ClientError, OSError):
        # What has come is enough to pass on, and the status tells the rest.
        return bytes(data)
    return bytes(data)


def words_of(body: Mapping[str, object] | None) -> tuple[str | None, str | None]:
    """Give type and code of an error body, as far as it has them."""
    return (None, None) if body is None else error_words(body)


def parse_object(data: bytes | bytearray) -> JsonObject | None:
    """Parse a JSON object; None for anything else."""
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
