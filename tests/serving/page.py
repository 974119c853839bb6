"""The page in a browser, by what tests do to it and see of it."""

import base64
import mimetypes
import re
from pathlib import Path
from typing import Any

import pytest

from tests.scripts.run import ROOT
from tests.serving.browser import Browser
from tests.serving.served import Serving

CHELSEA, COFFEE = (ROOT / "demo" / name for name in ("chelsea.jpg", "coffee.jpg"))
DESKTOP = (1280, 900)
SETTLED = "document.querySelectorAll('[data-state=done], [data-state=failed]').length === arguments[0]"
GIVE = """
const [kind, files, text] = arguments, transfer = new DataTransfer();
for (const [name, type, data] of files)
  transfer.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name, {type}));
if (text) transfer.setData("text/plain", text);
const options = {bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer};
const event = kind === "paste" ? new ClipboardEvent(kind, options) : new DragEvent(kind, options);
document.activeElement.dispatchEvent(event);
return event.defaultPrevented;
"""
CARDS = """
const text = (root, part) => { const e = root.querySelector(part); return e.hidden ? null : e.textContent; };
return [...document.querySelectorAll(".card")].map(card => ({
  name: text(card, "h2"), state: card.dataset.state, reason: text(card, ".reason"), time: text(card, ".time"),
  again: !card.querySelector(".again").hidden,
  labels: [...card.querySelectorAll(".label")].map(e => e.textContent),
  scores: [...card.querySelectorAll(".score")].map(e => e.textContent),
  bars: [...card.querySelectorAll(".track")].map(
    e => e.firstElementChild.getBoundingClientRect().width / e.getBoundingClientRect().width),
  preview: getComputedStyle(card.querySelector(".picture")).display !== "none",
  pixels: card.querySelector("img").naturalWidth,
}));
"""
# What the page asks the server for goes through `answering(path, options, real)`; it is set before the page runs.
INTERCEPT = "{ const real = window.fetch; const answering = %s;\n"
INTERCEPT += "window.fetch = (path, options) => answering(path, options, real) }"


class Page:
    """The page of a server, opened anew."""

    def __init__(self, browser: Browser, server: Serving) -> None:
        self.browser, self.server = browser, server
        self.url = f"http://127.0.0.1:{server.port}/"
        self.expected_errors: list[str] = []  # a regular expression each
        self._intercepts: list[str] = []

    def open(self) -> None:
        self.browser.open(self.url)
        self.browser.wait("document.documentElement.lang !== '' && document.querySelector('#pick').innerText !== ''")

    def intercept(self, answering: str) -> None:
        """Opens the page again, with a function in JavaScript before what it asks the server."""
        found = self.browser.devtools("Page.addScriptToEvaluateOnNewDocument", source=INTERCEPT % answering)
        self._intercepts.append(found["identifier"])
        self.open()

    def pick(self, *files: Path) -> None:
        self.browser.type("#files", "\n".join(map(str, files)))

    def give(self, kind: str, *files: Path, text: str = "") -> None:
        """Drops or pastes files or a text."""
        parts = [
            (file.name, mimetypes.guess_type(file)[0] or "", base64.b64encode(file.read_bytes()).decode())
            for file in files
        ]
        assert self.browser.run(GIVE, kind, parts, text), "the browser would do what it does with files"

    def cards(self, count: int, *, without_preview: int = 0) -> list[dict[str, Any]]:
        """Returns the cards when so many of them are done, and have previews but for so many."""
        self.browser.wait(SETTLED, count)
        self.browser.wait("document.querySelectorAll('.preview.empty').length === arguments[0]", without_preview)
        self.browser.wait("[...document.images].every(image => image.complete)")
        return list(self.browser.run(CARDS))

    def text(self, selector: str) -> str:
        return str(self.browser.run("return document.querySelector(arguments[0]).innerText", selector))

    def is_shown(self, selector: str) -> bool:
        return bool(self.browser.run("return document.querySelector(arguments[0]).checkVisibility()", selector))

    def close(self) -> None:
        """Looks at what the page asked for and complained of, and leaves a browser as it was."""
        unknown = [e for e in self.browser.errors() if not any(re.search(x, e) for x in self.expected_errors)]
        asked = self.browser.requested()
        for identifier in self._intercepts:
            self.browser.devtools("Page.removeScriptToEvaluateOnNewDocument", identifier=identifier)
        assert unknown == []
        assert self.url in asked
        assert [url for url in asked if not url.startswith((self.url, f"blob:{self.url}", "data:,"))] == []


def assert_answered(card: dict[str, Any], file: Path, server: Serving) -> None:
    """The card shows what the server answers to the same file."""
    [wanted] = server.classify(file.read_bytes(), "?top_k=5").predictions
    assert (card["name"], card["state"], card["labels"]) == (file.name, "done", wanted["label_names"])
    assert card["scores"] == [f"{100 * score:.1f}%" for score in wanted["scores"]]
    assert card["bars"] == pytest.approx(wanted["scores"], abs=0.005)
    assert card["preview"]
