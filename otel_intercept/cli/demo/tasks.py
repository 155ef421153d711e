"""End a task without losing a cancellation that is meant for the caller."""

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def cancel(task: "asyncio.Task[T]") -> None:
    """Cancel a task and wait until it has ended.

    Raises:
        asyncio.CancelledError: The caller was cancelled; awaiting the task itself and
            suppressing this would take the one for the other.
        Exception: What the task raised in place of its cancellation.
    """
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.result()
