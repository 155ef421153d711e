"""An environment module as verifiers' workers load it, by its name."""

from tests.hosts.legacy_loop import Loop


def load_environment() -> object:
    """Return an environment whose agent runs in the worker's process."""
    return Loop("", stream=False).environment()
