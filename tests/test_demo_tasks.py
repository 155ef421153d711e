"""A task that is cancelled hides neither its own end nor that of its caller."""

import asyncio

import pytest

from otel_intercept.cli.demo.tasks import cancel


async def test_a_caller_that_is_cancelled_meanwhile_ends() -> None:
    """A cancellation that comes while the task ends is the caller's, and raised."""
    ending = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await asyncio.sleep(0.05)

    async def caller() -> None:
        task = asyncio.create_task(slow())
        await asyncio.sleep(0)
        await cancel(task)
        await asyncio.Event().wait()

    calling = asyncio.create_task(caller())
    await ending.wait()
    calling.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(calling, 30)


async def test_what_a_task_raises_is_raised() -> None:
    """A task that fails as it is cancelled is no clean end."""

    async def failing() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError

    task = asyncio.create_task(failing())
    await asyncio.sleep(0)

    with pytest.raises(LookupError):
        await cancel(task)
