"""Agents on raw sockets: canaries in all that they send, every byte that they get."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tests.canary import Mint
from tests.canary_plan import Scenario

_TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_LEAVE_AFTER: Final = b"}\n\n"
_SERVERS: Final = ("server", "frames")
_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Talk:
    """What one agent sent and got, as bytes of the socket."""

    sent: bytes
    got: bytes

    @property
    def status(self) -> int:
        """The status of the answer; 0 without one."""
        words = self.got[:16].split(b" ")
        return int(words[1]) if len(words) > 1 else 0


async def talk(port: int, sent: bytes, *, leave: bool = False) -> Talk:
    """Send a request, and read until the end or, to leave, until the first chunk."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            writer.write(sent)
            await writer.drain()
            if leave:
                got = await reader.readuntil(_LEAVE_AFTER)
            else:
                got = await reader.read(-1)
    except ConnectionError:
        got = b""
    finally:
        writer.transport.abort()
    return Talk(sent, got)


def model_call(mint: Mint, scenario: Scenario, number: int) -> bytes:
    """Return the request of a scenario; odd ones are also malformed where they can."""
    model = f"no model name {mint('agent.model')}"
    if number == 0:
        model = mint("control.model")
    body = json.dumps(_body(mint, model, stream=scenario.streams)).encode()
    if scenario.how == "bad_json":
        body = f'{{"messages": [{mint("agent.bad_json")}'.encode()
    secret = mint("conf.server_secret") if scenario.via in _SERVERS else ""
    return request(mint, scenario.path, body, odd=number % 2 == 1, credential=secret)


def request(
    mint: Mint,
    path: str,
    body: bytes,
    *,
    odd: bool = False,
    credential: str = "",
    method: str = "POST",
) -> bytes:
    """Return a request with canaries in its query and headers.

    Args:
        mint: Makes them.
        path: Where to.
        body: What to send.
        odd: Whether known headers are malformed too.
        credential: The bearer token; a canary if empty.
        method: The HTTP method.
    """
    query = f"{mint('agent.query_key')}={mint('agent.query_value')}"
    headers = {
        "Host": f"{mint('agent.host')}.invalid" if odd else "127.0.0.1",
        "User-Agent": mint("agent.user_agent"),
        "Referer": f"http://agent.invalid/{mint('agent.referer')}",
        "Cookie": f"sid={mint('agent.cookie')}",
        "Authorization": f"Bearer {credential or mint('agent.authorization')}",
        "X-Api-Key": mint("agent.api_key"),
        f"X-{mint('agent.header_name')}": "1",
        "X-Trainer": mint("agent.header_value"),
        "traceparent": mint("agent.traceparent") if odd else _TRACEPARENT,
        "tracestate": f"vendor={mint('agent.tracestate')}",
        "baggage": f"user={mint('agent.baggage')}",
        "x-stainless-retry-count": mint("agent.retry_count") if odd else "1",
        "Content-Type": "application/json",
        "Content-Length": f"{len(body)}",
        "Connection": "close",
    }
    lines = [f"{method} {path}?{query} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join((*lines, "", "")).encode() + body


def _plain_get(path: str) -> bytes:
    """Return a request without any canary of the agent's."""
    return f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode()


async def other_talks(mint: Mint, ports: Mapping[str, int]) -> list[Talk]:
    """Ask for what no scenario asks: odd requests, refusals, routes of others."""
    secret = mint("conf.server_secret")
    tool = f"/rollout/side/vf/tools/{mint('agent.tool_path')}"
    unknown = f"/rollout/{mint('agent.rollout_id')}/v1/messages"
    listed = json.dumps([mint("agent.not_object")]).encode()
    attributes = {"a": [mint("agent.relay_attribute")]}
    asked: list[tuple[str, bytes]] = [
        ("app", request(mint, unknown, b"{}")),
        ("app", request(mint, f"/rollout/extra/any/{mint('agent.path')}", b"{}")),
        ("app", request(mint, "/rollout/s1/v1/messages?resolver=1&x", b"{}")),
        ("app", _plain_get("/other")),
        ("app", _plain_get(f"/other?raise=1&token={mint('control.access_log')}")),
        ("server", request(mint, unknown, b"{}", credential=secret)),
        ("server", request(mint, "/rollout/side/v1/messages", b"{}")),
        ("server", request(mint, "/rollout/side/v1/messages", b"x" * 200_000)),
        ("relay", request(mint, "/rollout/x", b"{}", method="PUT")),
    ]
    asked += [
        ("server", request(mint, path, body, credential=secret, odd=True))
        for path in ("/rollout/side/v1/messages", "/rollout/side/v1/responses", tool)
        for body in (listed, f"{{{mint('agent.bad_json')}".encode(), b"x" * 200_000)
    ]
    asked += [
        ("server", request(mint, path, body, credential=secret, method=method))
        for path, method, body in (
            (tool, "POST", b"{}"),
            ("/rollout/side/vf/tools", "GET", b""),
            ("/rollout/side/vf/user", "POST", b"{}"),
            ("/rollout/side/vf/stop", "POST", b"{}"),
            ("/rollout/side/vf/model", "POST", b'{"messages": []}'),
        )
    ]
    asked += [
        ("relay", request(mint, path, body, credential=secret, method=method))
        for path, method, body in (
            ("/rollout/x", "PUT", json.dumps({"attributes": attributes}).encode()),
            ("/rollout/x", "PUT", listed),
            ("/rollout/y", "PUT", json.dumps({mint("agent.body_key"): 1}).encode()),
            ("/rollout/x", "GET", b""),
            (f"/rollout/x?outcome={mint('agent.outcome')}&x", "DELETE", b""),
            ("/rollout/x/v1/../messages", "POST", b"{}"),
        )
    ]
    return [await talk(ports[via], sent) for via, sent in asked]


async def malformed_talks(mint: Mint, ports: Mapping[str, int]) -> list[Talk]:
    """Speak no HTTP to the servers that are ours from the socket on."""
    line = f"{mint('agent.request_line')} HTTP/1.1\r\n\r\n".encode()
    header = f"GET / HTTP/1.1\r\n{mint('agent.bad_header')}\r\n\r\n".encode()
    long = f"GET /{mint('agent.long_line') * 1000} HTTP/1.1\r\n\r\n".encode()
    method = request(mint, "/health", b"", method=mint("agent.method"))
    return [
        await talk(ports[via], sent)
        for via in ("server", "relay")
        for sent in (line, header, long, method)
    ]


def _body(mint: Mint, model: str, *, stream: bool) -> dict[str, object]:
    arguments = json.dumps({"path": f"/home/{mint('agent.tool_arguments')}"})
    function = {"name": mint("agent.tool_name"), "arguments": arguments}
    call = {"id": "call_1", "type": "function", "function": function}
    return {
        "model": model,
        "messages": [
            {"role": "user", "content": f"The password is {mint('agent.prompt')}."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ],
        "tools": [{"type": "function", "function": {"name": function["name"]}}],
        "stop": [mint("agent.stop")],
        "stream": stream,
        "temperature": mint("agent.temperature"),
        "max_tokens": mint.number("agent.max_tokens"),
        mint("agent.body_key"): mint("agent.body_value"),
    }
