"""Run one rollout in verifiers' own worker processes, and print how it ended.

The last argument is the model's URL; the first one says whether the worker is stopped
while its model call hangs.
"""

import asyncio
import sys

from otel_intercept.instrumentation.verifiers import VerifiersInstrumentor
from tests.hosts.legacy_loop import MODEL, TASK
from tests.hosts.legacy_stage import load


async def main(how: str, upstream_url: str) -> None:
    """Start the workers, run the rollout there, and stop them."""
    env = load("utils.env_utils").load_environment("legacy-worker-env")
    config = load("types").ClientConfig(
        api_base_url=f"{upstream_url}/v1", api_key_var="KEY", max_retries=0
    )
    await env.start_server(console_logging=False)
    running = asyncio.create_task(env.run_rollout(TASK, config, MODEL, {}))
    if how == "stopped":
        await asyncio.to_thread(sys.stdin.readline)
        running.cancel()
        await asyncio.wait({running})
    else:
        sys.stdout.write(f"{(await running)['stop_condition']}\n")
    await env.stop_server()


if __name__ == "__main__":
    VerifiersInstrumentor().instrument()
    asyncio.run(main(*sys.argv[1:]))
