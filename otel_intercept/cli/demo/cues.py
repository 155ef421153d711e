"""The two moments that make an agent's leaving happen by order, and not by chance."""

import asyncio


class Cues:
    """Makes a fault on the agent's side happen at one moment, and not by chance.

    Attributes:
        arrived: The host has the request, or has sent the first chunk.
        left: The agent has closed its connection.
    """

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.left = asyncio.Event()
