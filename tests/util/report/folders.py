"""Folders of runs with known numbers, and a reader that turns a report back into numbers."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

VOID = {"meta", "input", "br", "link", "img", "hr"}


def iteration_line(epoch: int, iteration: int, total: int, *, lr: float, loss: float, seconds: float = 0.5) -> str:
    """A line of train.log as training writes it."""
    return (
        f"[04:32:41.592649] Epoch: [{epoch}]  [{iteration:4d}/{total}]  eta: 0:02:21  lr: {lr:.6f}  "
        f"loss: {loss:.4f} ({loss:.4f})  time: {seconds:.4f}  data: 0.0116"
    )


def epoch_row(epoch: int, **values: float) -> dict[str, float]:
    """A line of log.txt: everything follows from the epoch, unless given."""
    row = {
        "epoch": epoch, "train_lr": 0.001 / (epoch + 1), "train_loss": 6.0 - epoch, "grad_norm": 1.5 + epoch / 10,
        "seconds": 100.0, "images_per_second": 900.0 + 10 * epoch, "data_wait": 0.02 * (epoch + 1),
        "skipped_updates": 0, "test_loss": 5.0 - epoch, "test_acc1": 10.0 * (epoch + 1),
        "test_acc5": 15.0 * (epoch + 1), "best_acc1": 10.0 * (epoch + 1),
    }  # fmt: skip
    return row | values


def event(kind: str, time: str, epoch: int = 0, iteration: int = 0, **values: Any) -> dict[str, Any]:
    """A line of events.jsonl; time: a day of November 2026 and a time."""
    more = {"resumed": False, "processes": 2, "device": "gpu", "host": "node", "pid": 7, "paddle": "3.3.1"}
    base = {"time": f"2026-11-{time}+00:00", "event": kind, "epoch": epoch, "iteration": iteration, "update": 0}
    return base | (more if kind == "start" else {}) | values


def write_run(
    folder: Path,
    *,
    rows: Iterable[Mapping[str, Any]] = (),
    lines: Sequence[str] = (),
    events: Sequence[Mapping[str, Any]] = (),
    settings: str | None = None,
    bad_images: str | None = None,
) -> Path:
    """Writes a run's files, those that are given, and returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "log.txt": "".join(json.dumps(row) + "\n" for row in rows),
        "train.log": "".join(f"{line}\n" for line in lines),
        "events.jsonl": "".join(json.dumps(e) + "\n" for e in events),
        "args.yaml": settings or "",
        "bad_images.tsv": bad_images or "",
    }
    for name, text in files.items():
        if text:
            (folder / name).write_text(text, encoding="utf-8")
    return folder


@dataclass
class Element:
    """An element of a page, with all text in it."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    inside: list["Element"] = field(default_factory=list)

    def all(self, tag: str, kind: str = "") -> list["Element"]:
        """The elements inside with a tag, and a class if one is given, in the order of the page."""
        found = []
        for element in self.inside:
            if element.tag == tag and kind in ("", *element.attributes.get("class", "").split()):
                found.append(element)
            found += element.all(tag, kind)
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.stack = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.stack[-1].inside.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in [e.tag for e in self.stack], f"<{tag}/> ends itself outside of a picture"
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack[-1].tag == tag, f"</{tag}> ends <{self.stack[-1].tag}>"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        for element in self.stack:
            element.text += data


def parse_page(text: str) -> Element:
    """Parses a page; elements that are not nested are an AssertionError."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert len(reader.stack) == 1, [e.tag for e in reader.stack]
    return reader.stack[0]


def rows_of(element: Element) -> dict[str, list[str]]:
    """A table's rows: the first cell -> the others."""
    rows = [[cell.text for cell in row.inside] for row in element.all("tr")]
    return {first: others for first, *others in rows}


def tables_below(page: Element, heading: str) -> list[Element]:
    """The tables between a heading and the next one of its rank."""
    (body,) = page.all("body")
    found, inside = [], False
    for element in body.inside:
        if element.tag == "h2":
            inside = element.text == heading
        elif inside:
            found += element.all("table")
    return found


def picture(page: Element, title: str) -> Element:
    """The SVG of a picture."""
    (svg,) = [f.all("svg")[0] for f in page.all("figure") if f.all("figcaption")[0].text == title]
    return svg


def curves(svg: Element) -> dict[tuple[int, str], list[np.ndarray]]:
    """A picture's curves as numbers: run and name -> pieces between gaps, float64 (N, 2) of x and y."""
    (x0, x1), (y0, y1) = (map(float, svg.attributes[name].split()) for name in ("data-x", "data-y"))
    found = {}
    for path in svg.all("path", "curve"):
        pieces = []
        for piece in re.findall(r"M([^Mh]*)", path.attributes["d"]):
            place = np.array([[float(number) for number in pair.split(",")] for pair in piece.split()])
            x = x0 + (x1 - x0) * (place[:, 0] - 66) / (640 - 66 - 30)
            part = 1 - (place[:, 1] - 12) / (290 - 12 - 42)
            y = y0 * (y1 / y0) ** part if svg.attributes["data-log"] == "1" else y0 + (y1 - y0) * part
            pieces.append(np.stack([x, y], axis=1))
        found[int(path.attributes["data-run"]), path.attributes["data-name"]] = pieces
    return found
