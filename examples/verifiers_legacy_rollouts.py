"""A host without telemetry: verifiers' legacy server, and an agent that never fails."""

import asyncio
import os
import uuid

from openai import AsyncOpenAI
from verifiers.legacy.clients import openai_chat_completions_client as clients
from verifiers.legacy.errors import Error
from verifiers.legacy.utils import interception_utils as interception
from verifiers.legacy.utils.message_utils import normalize_messages


async def consume(
    server: interception.InterceptionServer, requests: "asyncio.Queue[str]"
) -> None:
    url = os.environ["UPSTREAM_URL"] + "/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as sdk:
        client = clients.OpenAIChatCompletionsClient(sdk)
        while True:
            intercept = server.intercepts[await requests.get()]
            prompt = normalize_messages(intercept["messages"])
            answer, error = None, None
            try:
                answer = await client.get_response(prompt, intercept["model"], {})
            except Error as exc:
                error = exc
            if intercept["stream"]:
                await interception.synthesize_stream(intercept, answer, error)
            else:
                interception.deliver_response(intercept, answer, error)


async def act(url: str, key: str) -> None:
    async with AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as sdk:
        ask = sdk.chat.completions.create
        await ask(model="m", messages=[{"role": "user", "content": "hello"}])
        stream = await ask(
            model="m", messages=[{"role": "user", "content": "go on"}], stream=True
        )
        print("chunks:", len([chunk async for chunk in stream]))


async def main() -> None:
    server = interception.InterceptionServer(0)
    state = {"trajectory_id": uuid.uuid4().hex}
    await server.start()
    requests = server.register_rollout("r1", state=state)
    consumer = asyncio.create_task(consume(server, requests))
    await act(f"http://127.0.0.1:{server.port}/rollout/r1/v1", server.secret)
    server.unregister_rollout("r1")
    consumer.cancel()
    await server.stop()
    print("trajectory:", state["trajectory_id"])


asyncio.run(main())
