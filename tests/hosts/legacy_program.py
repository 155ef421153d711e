"""A program that runs one rollout with verifiers, and has never heard of telemetry."""

import asyncio
import sys

from tests.hosts.legacy_loop import Loop

if __name__ == "__main__":
    output = asyncio.run(Loop(sys.argv[1], stream=True).run())
    sys.stdout.write(f"{output['stop_condition']}\n")
