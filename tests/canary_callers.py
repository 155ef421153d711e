"""Clients that call the hostile upstream, with canaries in all that they are given."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import aiohttp
import anthropic
import httpx
import openai

from tests.canary import Mint

LABEL: Final = "a" * 63
SLOW: Final = frozenset({"hangs", "hangs_in_body", "tls_hangs", "sse_hangs"})
"""Faults that only a timeout ends; all others must not meet one on a busy machine."""

_SHORT_S: Final = 0.3
_LONG_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where a call goes, and with what in it.

    Args:
        fault: A script of the upstream, or what goes wrong on the way there.
        port: Where the upstream listens.
        silent_port: Where somebody accepts and says nothing.
        prompt: The agent's text, which goes upstream.
        mint: Makes the canaries of the URL, the headers and the credentials.
    """

    fault: str
    port: int
    silent_port: int
    prompt: str
    mint: Mint

    @property
    def timeout_s(self) -> float:
        """Seconds to wait for a connection, or for data."""
        return _SHORT_S if self.fault in SLOW else _LONG_S

    @property
    def origin(self) -> str:
        """Scheme, user, password, host and port."""
        mint = self.mint
        user = f"{mint('conf.user')}:{mint('conf.password')}@"
        match self.fault:
            case "refused":
                return f"http://{user}127.0.0.1:1"
            case "no_such_host":
                # Too long for DNS, so that the resolver refuses it and asks nobody.
                host = ".".join((mint("conf.host"), *[LABEL] * 4))
                return f"http://{user}{host}"
            case "no_tls":
                return f"https://{user}127.0.0.1:{self.port}"
            case "tls_hangs":
                return f"https://{user}127.0.0.1:{self.silent_port}"
            case _:
                return f"http://{user}127.0.0.1:{self.port}"

    @property
    def base(self) -> str:
        """The base URL, with a path that is a secret."""
        return f"{self.origin}/{self.fault}/{self.mint('conf.path')}"

    @property
    def url(self) -> str:
        """The whole URL."""
        return f"{self.base}/v1/chat/completions?api-key={self.mint('conf.query')}"

    @property
    def headers(self) -> dict[str, str]:
        """Headers that the operator adds."""
        return {"X-Tenant": self.mint("conf.header"), "X-Api-Key": self.api_key}

    @property
    def api_key(self) -> str:
        """The credential."""
        return self.mint("conf.api_key")

    @property
    def body(self) -> dict[str, object]:
        """What is asked."""
        messages = [{"role": "user", "content": self.prompt}]
        return {"model": "m", "messages": messages}


Call = Callable[[Target], Awaitable[object]]
Stream = Callable[[Target], AsyncIterator[bytes]]


async def _aiohttp(target: Target) -> object:
    async with (
        _session(target) as session,
        session.post(target.url, json=target.body, headers=target.headers) as response,
    ):
        return await response.json()


async def _aiohttp_stream(target: Target) -> AsyncIterator[bytes]:
    async with (
        _session(target) as session,
        session.post(target.url, json=target.body, headers=target.headers) as response,
    ):
        async for data in response.content.iter_any():
            yield data


async def _httpx(target: Target) -> object:
    async with _httpx_client(target) as client:
        response = await client.post(
            target.url, json=target.body, headers=target.headers
        )
        response.raise_for_status()
        return response.json()


async def _httpx_stream(target: Target) -> AsyncIterator[bytes]:
    async with (
        _httpx_client(target) as client,
        client.stream(
            "POST", target.url, json=target.body, headers=target.headers
        ) as response,
    ):
        response.raise_for_status()
        async for data in response.aiter_bytes():
            yield data


async def _openai(target: Target) -> object:
    async with _openai_client(target) as client:
        completion = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": target.prompt}]
        )
        return completion.model_dump()


async def _openai_stream(target: Target) -> AsyncIterator[bytes]:
    async with _openai_client(target) as client:
        stream = await client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": target.prompt}],
            stream=True,
        )
        async for chunk in stream:
            yield f"data: {chunk.model_dump_json()}\n\n".encode()


async def _anthropic(target: Target) -> object:
    async with _anthropic_client(target) as client:
        message = await client.messages.create(
            model="m",
            max_tokens=8,
            messages=[{"role": "user", "content": target.prompt}],
        )
        return message.model_dump()


async def _anthropic_stream(target: Target) -> AsyncIterator[bytes]:
    async with _anthropic_client(target) as client:
        stream = await client.messages.create(
            model="m",
            max_tokens=8,
            messages=[{"role": "user", "content": target.prompt}],
            stream=True,
        )
        async for event in stream:
            data = event.model_dump_json()
            yield f"event: {event.type}\ndata: {data}\n\n".encode()


CALLS: Final = MappingProxyType[str, Call](
    {
        "aiohttp": _aiohttp,
        "httpx": _httpx,
        "openai": _openai,
        "anthropic": _anthropic,
    }
)
STREAMS: Final = MappingProxyType[str, Stream](
    {
        "aiohttp": _aiohttp_stream,
        "httpx": _httpx_stream,
        "openai": _openai_stream,
        "anthropic": _anthropic_stream,
    }
)
ROUTES: Final = MappingProxyType(
    {
        "aiohttp": "responses",
        "httpx": "completions",
        "openai": "chat/completions",
        "anthropic": "messages",
    }
)
"""The route that the agent asks, by the client that serves it."""

# Making one takes long.
_TLS: Final = ssl.create_default_context()


def _session(target: Target) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(
        connect=target.timeout_s, sock_read=target.timeout_s
    )
    return aiohttp.ClientSession(timeout=timeout, raise_for_status=True)


def _httpx_client(target: Target) -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=target.timeout_s, trust_env=False, verify=_TLS)


def _openai_client(target: Target) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{target.base}/v1",
        api_key=target.api_key,
        default_headers=target.headers,
        default_query={"api-key": target.mint("conf.query")},
        organization=target.mint("conf.organization"),
        max_retries=0,
        timeout=target.timeout_s,
        http_client=openai.DefaultAsyncHttpxClient(
            timeout=target.timeout_s, trust_env=False, verify=_TLS
        ),
    )


def _anthropic_client(target: Target) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(
        base_url=target.base,
        api_key=target.api_key,
        default_headers=target.headers,
        default_query={"api-key": target.mint("conf.query")},
        max_retries=0,
        timeout=target.timeout_s,
        http_client=anthropic.DefaultAsyncHttpxClient(
            timeout=target.timeout_s, trust_env=False, verify=_TLS
        ),
    )
