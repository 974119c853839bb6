"""A headless Chromium that tests drive: the few commands of the WebDriver protocol that they need, over HTTP.

Chromium and its driver are what the system has; nothing is looked for elsewhere.
"""

import base64
import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.scripts.background import SLOWNESS, wait_until

INSTALL = "apt install chromium chromium-driver"
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--no-proxy-server",
    "--disable-dev-shm-usage", "--force-color-profile=srgb", "--hide-scrollbars", "--lang=en-US", "about:blank",
)  # fmt: skip
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key by which the protocol marks an element
TAB, ENTER, SPACE, DELETE, SHIFT = "\ue004", "\ue007", " ", "\ue017", "\ue008"


def missing() -> str:
    """Returns what is not there of a browser and its driver, and how it is installed; else nothing."""
    names = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(names)} here: {INSTALL}" if names else ""


class Browser:
    """One window of a new Chromium; `with Browser(folder) as browser:` ends it, and its driver."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "chromedriver.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(["chromedriver", "--port=0"], stdout=log, stderr=log, cwd=folder)
        self._profile, self._session, self._port = folder / "profile", "", 0

    def __enter__(self) -> "Browser":
        try:
            wait_until(lambda: "started successfully on port" in self._log.read_text(), "a driver", 30 * SLOWNESS)
            [port] = re.findall(r"started successfully on port (\d+)", self._log.read_text())
            self._port = int(port)
            options = {"args": [*ARGUMENTS, f"--user-data-dir={self._profile}"], "binary": shutil.which("chromium")}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
            session = self._command("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self._session = f"/session/{session['sessionId']}"
        except BaseException:
            self._end()
            raise
        self.open("about:blank")
        self.requested()  # what the browser's own first page asks for
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._command("DELETE", self._session)
        finally:
            self._end()

    def _end(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def _command(self, method: str, path: str, values: dict[str, Any] | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60 * SLOWNESS)
        try:
            body = None if method == "DELETE" or method == "GET" else json.dumps(values or {})
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            found = json.loads(answer.read())["value"]
        finally:
            connection.close()
        assert answer.status == 200, f"{path}: {found['message']}"
        return found

    def do(self, command: str, values: dict[str, Any] | None = None) -> Any:
        """Sends one of the protocol's commands to the window."""
        return self._command("POST", f"{self._session}/{command}", values)

    def devtools(self, command: str, **values: Any) -> Any:
        """Sends a command of the DevTools protocol."""
        return self.do("goog/cdp/execute", {"cmd": command, "params": values})

    def open(self, url: str) -> None:
        self.do("url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """Returns what JavaScript returns, a promise's value too; `arguments` are its arguments."""
        return self.do("execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str, *arguments: Any, seconds: float = 20.0) -> None:
        """Waits until a JavaScript expression is true."""
        wait_until(lambda: bool(self.run(f"return {script}", *arguments)), script, seconds * SLOWNESS)

    def find(self, selector: str) -> str:
        """Returns the element that a CSS selector finds first."""
        return str(self.do("element", {"using": "css selector", "value": selector})[ELEMENT])

    def click(self, selector: str) -> None:
        self.do(f"element/{self.find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        """Types into an element; into an input of files, their paths, a line each."""
        self.do(f"element/{self.find(selector)}/value", {"text": text})

    def press(self, *keys: str, holding: str | None = None) -> None:
        """Presses keys, one after the other, wherever the focus is."""
        steps = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        if holding is not None:
            steps = [{"type": "keyDown", "value": holding}, *steps, {"type": "keyUp", "value": holding}]
        self.do("actions", {"actions": [{"type": "key", "id": "keyboard", "actions": steps}]})

    def resize(self, width: int, height: int) -> None:
        """Makes the page so large, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, scheme: str) -> None:
        """Makes the system's colours light or dark."""
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._command("GET", f"{self._session}/screenshot")))

    def errors(self) -> list[str]:
        """Returns what the console says above a hint, since it was last asked."""
        return [line["message"] for line in self._read_log("browser") if line["level"] in ("WARNING", "SEVERE")]

    def requested(self) -> Sequence[str]:
        """Returns the addresses that were asked for, since this was last asked."""
        events = [json.loads(line["message"])["message"] for line in self._read_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def _read_log(self, name: str) -> list[dict[str, Any]]:
        return list(self.do("se/log", {"type": name}))
