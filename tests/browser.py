"""A headless Chromium that is driven over its own protocol, with real keys."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp

CHROMIUM: Final = "chromium"
_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
    "--remote-debugging-port=0",
    "about:blank",
)
_START_S: Final = 30.0
_KEYS: Final = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    "Space": (32, " "),
    "End": (35, ""),
    "ArrowDown": (40, ""),
}


class Page:
    """One open page.

    Args:
        socket: The connection to it.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.complaints: list[str] = []
        self.requested: list[str] = []

    async def open(self, url: str, *, dark: bool = False) -> None:
        """Load a page, in the colours that somebody prefers, and wait until it is."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        scheme = "dark" if dark else "light"
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)
        await self.call("Page.navigate", url=url)
        async with asyncio.timeout(_START_S):
            while True:
                told = await self.value("document.readyState + location.protocol")
                if told == f"complete{url.partition('//')[0]}":
                    return
                await asyncio.sleep(0.05)

    async def press(self, key: str) -> None:
        """Press and release a key: one that has a name, or a character."""
        code, text = _KEYS.get(key, (ord(key[0].upper()), key))
        facts = {"key": " " if key == "Space" else key, "windowsVirtualKeyCode": code}
        kind = "keyDown" if text else "rawKeyDown"
        down = facts | ({"text": text} if text else {})
        await self.call("Input.dispatchKeyEvent", type=kind, **down)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **facts)

    async def value(self, script: str) -> object:
        """Return the value of an expression in the page, or of its promise."""
        told = await self.call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
        )
        result = told["result"]
        assert isinstance(result, dict)
        assert "exceptionDetails" not in told, script
        return result.get("value")

    async def picture(self) -> bytes:
        """Return what can be seen now, as PNG."""
        data = (await self.call("Page.captureScreenshot", format="png"))["data"]
        assert isinstance(data, str)
        return base64.b64decode(data)

    async def call(self, method: str, **params: object) -> dict[str, object]:
        """Call a method of the protocol; note complaints and requests on the way."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        await self._socket.send_json(message)
        while True:
            told = json.loads(await self._socket.receive_str(timeout=_START_S))
            if told.get("id") == self._number:
                assert "error" not in told, method
                result = told["result"]
                assert isinstance(result, dict)
                return result
            self._note(told)

    def _note(self, told: dict[str, object]) -> None:
        params = told.get("params")
        if not isinstance(params, dict):
            return
        match told.get("method"), params:
            case "Log.entryAdded", {"entry": {"text": str(text)}}:
                self.complaints.append(text)
            case "Runtime.exceptionThrown", _:
                self.complaints.append("a script raised")
            case "Network.requestWillBeSent", {"request": {"url": str(url)}}:
                self.requested.append(url)
            case _:
                pass


@contextlib.asynccontextmanager
async def browsing(profile: Path) -> AsyncIterator[Page]:
    """Start a browser with a fresh profile and give its page; end it afterwards."""
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        f"--user-data-dir={profile}",
        *_FLAGS,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        base = f"http://127.0.0.1:{await _port(profile / 'DevToolsActivePort')}"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{base}/json/list") as answer:
                pages = await answer.json()
            (url,) = [
                item["webSocketDebuggerUrl"] for item in pages if item["type"] == "page"
            ]
            async with session.ws_connect(url, max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        process.terminate()
        await process.wait()


async def _port(file: Path) -> int:
    async with asyncio.timeout(_START_S):
        # Written in two steps: the port, then the path of the browser's socket.
        while True:
            if len(lines := _lines(file)) == 2:
                return int(lines[0])
            await asyncio.sleep(0.05)


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []
