"""The trainer: its span is the parent of a rollout in another process.

The agent runs here too, for brevity: it calls a tool, then the model.
"""

import asyncio
import os

import aiohttp
from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

PROXY, TOOLS = os.environ["PROXY_URL"], os.environ["TOOL_URL"]


async def attempt(
    session: aiohttp.ClientSession, name: str, previous: str | None
) -> tuple[str, str]:
    """Run the rollout once; return its traceparent and its outcome."""
    order: dict[str, str | None] = {"previous": previous}
    propagate.inject(order)
    async with session.put(f"{PROXY}/rollout/{name}", json=order) as answer:
        traceparent: str = (await answer.json())["traceparent"]
    headers = {"traceparent": traceparent}
    async with session.post(f"{TOOLS}/run", headers=headers) as answer:
        answer.raise_for_status()
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    url = f"{PROXY}/rollout/{name}/v1/chat/completions"
    async with session.post(url, json=body) as answer:
        await answer.read()
    async with session.delete(f"{PROXY}/rollout/{name}") as answer:
        return traceparent, (await answer.json())["outcome"]


async def train() -> None:
    previous: str | None = None
    async with aiohttp.ClientSession() as session:
        for number in range(2):
            previous, outcome = await attempt(session, f"task-7-{number}", previous)
            print(outcome, flush=True)
            if outcome == "completed":
                break


if __name__ == "__main__":
    provider = TracerProvider(resource=Resource.create({"service.name": "trainer"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    # By default the SDK exports the text of an exception, and that may hold anything.
    with provider.get_tracer("trainer").start_as_current_span(
        "train", record_exception=False, set_status_on_exception=False
    ):
        asyncio.run(train())
    provider.shutdown()
