"""A small client of a headless Chromium, over its DevTools protocol and nothing but the standard library."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Tab": 9}


class Socket:
    """A web socket that sends and receives texts."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.stream = socket.create_connection((parts.hostname, parts.port), timeout=60)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
        self.stream.sendall("\r\n".join(lines).encode())
        self.file = self.stream.makefile("rb")
        while self.file.readline().strip():
            pass

    def send(self, text: str) -> None:
        """One masked text frame."""
        data, mask = text.encode(), os.urandom(4)
        size = bytes([128 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
        size = b"\xff" + struct.pack(">Q", len(data)) if len(data) > 65535 else size
        self.stream.sendall(b"\x81" + size + mask + bytes(b ^ mask[k % 4] for k, b in enumerate(data)))

    def receive(self) -> str:
        """The next text, whole."""
        text, last = b"", False
        while not last:
            first, size = self.file.read(2)
            last, size = bool(first & 128), size & 127
            if size > 125:
                size = int.from_bytes(self.file.read(2 if size == 126 else 8), "big")
            text += self.file.read(size)
        return text.decode()


class Browser:
    """One page of a headless Chromium; ``events`` keeps all that it has told."""

    def __init__(self, folder: Path) -> None:
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            pytest.fail(f"no browser was found; wanted one of {', '.join(NAMES)}: apt-get install chromium")
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={folder}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([program, *options, "about:blank"], **quiet)
        port = folder / "DevToolsActivePort"
        self._until(lambda: port.is_file() and port.read_text().count("\n"), "the browser's port")
        address = f"http://127.0.0.1:{port.read_text().split()[0]}/json/list"
        self._until(lambda: self._pages(address), "a page")
        self.socket, self.events, self.count = Socket(self._pages(address)[0]["webSocketDebuggerUrl"]), [], 0
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    @staticmethod
    def _pages(address: str) -> list[dict[str, Any]]:
        with urllib.request.urlopen(address) as answer:
            return [page for page in json.load(answer) if page["type"] == "page"]

    @staticmethod
    def _until(done: Any, what: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, f"waited {seconds} s for {what}"
            time.sleep(0.05)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer."""
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.receive())
            if message.get("id") == self.count:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.events.append(message)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, a promise's when it is kept."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, (expression, answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until an expression is true."""
        self._until(lambda: self.evaluate(expression), expression)

    def open(self, page: Path, width: int = 1280, height: int = 900) -> None:
        """Show a file, in a window of a size, once it is loaded."""
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700)
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait(f"location.href === {json.dumps(page.resolve().as_uri())} && document.readyState === 'complete'")

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press and release a key; modifiers: 8 for shift."""
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        about = {"key": key, "windowsVirtualKeyCode": KEYS.get(key, 0), "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Move, press, release or turn the wheel of the mouse at a place of the window."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def told(self, *methods: str) -> list[dict[str, Any]]:
        """What was told by some methods since the page was opened."""
        return [event["params"] for event in self.events if event["method"] in methods]

    def close(self) -> None:
        """End the browser."""
        self.call("Browser.close")
        self.process.wait(30)
