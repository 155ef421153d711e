"""What doctor and the process of the user's app tell each other: JSON lines."""

import asyncio
import json
from collections.abc import Mapping
from typing import Final

MAX_LINE: Final = 1_048_576

JOB: Final = "job"
READY: Final = "ready"
TROUBLE: Final = "trouble"
OPEN: Final = "open"
CLOSE: Final = "close"
LOOK: Final = "look"
STOP: Final = "stop"
ANSWER: Final = "answer"


async def send(writer: asyncio.StreamWriter, word: str, content: object) -> None:
    """Send one message.

    Raises:
        ConnectionError: Nobody is there any more.
    """
    writer.write(json.dumps([word, content]).encode() + b"\n")
    await writer.drain()


async def receive(reader: asyncio.StreamReader) -> tuple[str, object]:
    """Wait for one message; `STOP` once nobody is there any more."""
    try:
        line = await reader.readline()
    except ConnectionError:
        line = b""
    if not line:
        return STOP, None
    word, content = json.loads(line)
    return str(word), content


def fields_of(content: object) -> Mapping[str, object]:
    """Return the content of a message that is an object."""
    return content if isinstance(content, dict) else {}


def text_in(content: Mapping[str, object], name: str) -> str | None:
    """Return a text field, or None."""
    value = content.get(name)
    return value if isinstance(value, str) else None
