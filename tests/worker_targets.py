"""What spawned processes run in tests: each opens a rollout and does not close it."""

import asyncio
import importlib
import os
import signal
import time
import warnings

SECRET = "sk-canary-2c9d41"


def fails() -> None:
    """Raise while a rollout is open."""
    _open_rollout()
    raise RuntimeError(SECRET)


def is_terminated() -> None:
    """Get SIGTERM while a rollout is open, as from a supervisor."""
    _open_rollout()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)


def ends() -> None:
    """End while a rollout is open."""
    _open_rollout()


def _open_rollout() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = "verifiers.legacy.utils.interception_utils"
        server = importlib.import_module(name)

    async def register() -> None:
        made = server.InterceptionServer(0)
        made.register_rollout("r1", {})
        # It would take its rollout with it.
        _KEPT.append(made)

    asyncio.run(register())


_KEPT: list[object] = []
