"""Check the one secret that requests must carry."""

import hmac
from typing import Final

from aiohttp import web

_SCHEME: Final = b"Bearer "


class Credential:
    """A secret that comes as bearer token or as ``x-api-key``. Never printed.

    Args:
        secret: Any non-empty text.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: str) -> None:
        self._secret = _bytes_of(secret)

    def admits(self, request: web.Request) -> bool:
        """Tell whether a request carries the secret, in time that says nothing else."""
        bearer = _bytes_of(request.headers.get("Authorization", ""))
        api_key = _bytes_of(request.headers.get("x-api-key", ""))
        by_bearer = hmac.compare_digest(bearer, _SCHEME + self._secret)
        by_api_key = hmac.compare_digest(api_key, self._secret)
        return by_bearer or by_api_key


def _bytes_of(text: str) -> bytes:
    # This is how aiohttp decodes headers, so the bytes of the wire come back.
    return text.encode("utf-8", "surrogateescape")
