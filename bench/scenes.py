"""The requests that agents send, and what each must be answered with.

The request's model, such as ``ok:200``, tells the server how to answer: what becomes of
the model call, and in how many chunks.
"""

import json
from dataclasses import dataclass
from typing import Final

SECRET: Final = "benchmark"  # noqa: S105 - the servers are on loopback, for minutes
ROUTE: Final = "/rollout/{rollout_id}/v1/chat/completions"
ROLLOUTS: Final = 64
"""Rollouts that every server has open; connection n belongs to rollout ``r{n}``."""

CHUNKS: Final = 200
_SMALL: Final = 2_000
_LARGE: Final = 200_000
_WORD: Final = "the agent reads the file and runs the tests "


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One kind of exchange.

    Args:
        model: What becomes of the model call, as `bench.servers.app` knows it.
        status: What the agent must get.
        size: Bytes of the request's body, about.
        stream: Whether the answer is an event stream.
        chunks: Chunks of that stream.
        whole: Whether the answer's body ends as announced.
    """

    model: str = "ok"
    status: int = 200
    size: int = _SMALL
    stream: bool = False
    chunks: int = 0
    whole: bool = True

    def body(self) -> bytes:
        """Return the request's body."""
        text = (_WORD * (self.size // len(_WORD) + 1))[: self.size - 160]
        request: dict[str, object] = {
            "model": f"{self.model}:{self.chunks}",
            "stream": self.stream,
            "temperature": 0.7,
            "max_tokens": 1024,
            "messages": [{"role": "user", "content": text}],
        }
        return json.dumps(request).encode()

    def request(self, rollout_id: str) -> bytes:
        """Return the whole HTTP request of one rollout's agent."""
        body = self.body()
        head = (
            f"POST {ROUTE.format(rollout_id=rollout_id)} HTTP/1.1\r\n"
            "Host: 127.0.0.1\r\n"
            f"Authorization: Bearer {SECRET}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


SCENES: Final = {
    "json2k": Scene(),
    "json200k": Scene(size=_LARGE),
    "sse": Scene(stream=True, chunks=CHUNKS),
    # The slope between the two is the price of a chunk.
    "sse100": Scene(stream=True, chunks=CHUNKS // 2),
    "fail-upstream": Scene(model="fail-upstream", status=500),
    "fail-status": Scene(model="fail-status", status=429),
    "fail-handler": Scene(model="fail-handler", status=500),
    "fail-silent": Scene(model="fail-upstream", stream=True),
    "fail-cut": Scene(model="fail-cut", stream=True, chunks=20, whole=False),
    "fail-frame": Scene(model="fail-frame", stream=True, chunks=20),
    "fail-truncated": Scene(model="fail-truncated", stream=True, chunks=20),
}
