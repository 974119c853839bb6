"""The page: its numbers and curves are those of the logs, nothing from a file is more than text, nothing is loaded."""

import base64
import hashlib
import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.util.report.folders import (
    Element,
    curves,
    epoch_row,
    event,
    iteration_line,
    parse_page,
    picture,
    rows_of,
    tables_below,
    write_run,
)
from util.report.page import report_page
from util.report.run import Run, read_run

NOW = datetime(2026, 11, 21, 6, 30, 0, 5, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\"'>&amp;猫🐱\x1b[31m\u202egpj"


def page_of(*runs: Run) -> Element:
    return parse_page(report_page(runs, now=NOW))


def ordinary_run(folder: Path, *, shift: float = 0.0, epochs: int = 4, lr: float = 0.001) -> Run:
    """Four epochs of 100 iterations, restarted in the third, and finished."""
    rows = [epoch_row(i, test_acc1=40 + 10 * i + shift, test_acc1_ema=41 + 10 * i + shift) for i in range(epochs)]
    lines = [
        iteration_line(e, i, 100, lr=lr * (e + 1), loss=7 - e - i / 100, seconds=0.4 + e / 10)
        for e in range(epochs) for i in (0, 50, 99)
    ]  # fmt: skip
    lines.append("[04:00:00.000000] Epoch: [3]  top-1 70.00  top-5 60.00  loss 2.0000  best 70.00  on 50000 images")
    events = [
        event("start", "01T00:00:00"),
        event("stop", "01T02:00:00", 2, 50, signal="SIGTERM"),
        event("start", "01T03:00:00", 2, 50, resumed=True),
        event("finish", "01T06:00:00", 4),
    ]
    settings = f"model: cvt_13_224x224\nepochs: 4\nlr: {lr}\naa: null\n"
    return read_run(write_run(folder, rows=rows, lines=lines, events=events, settings=settings), folder.name)


def test_the_summary_has_the_numbers_of_the_log(tmp_path: Path) -> None:
    page = page_of(ordinary_run(tmp_path / "r"))
    figures = rows_of(tables_below(page, "Summary")[0])
    assert {name: cells[0] for name, cells in figures.items() if name} == {
        "state": "finished", "epochs done": "4 of 4", "best top-1": "70.00 % in epoch 3",
        "best top-1 of the average (EMA)": "71.00 % in epoch 3", "last top-1": "70.00 %", "last top-5": "60.00 %",
        "last top-1 of the average (EMA)": "71.00 %", "images evaluated": "50,000", "last loss in training": "3.0000",
        "last loss in evaluation": "2.0000", "images/s in training": "915.0", "waiting for data": "5.0 %",
        "time of training, full epochs": "6.7 min", "time with restarts, first start to last event": "6.00 h",
        "of which running": "5.00 h", "restarts": "1", "failures": "0", "updates skipped": "0",
        "rejected files": "0", "newest start": "2 x gpu on node, Paddle 3.3.1",
    }  # fmt: skip
    assert not page.all("div", "warnings")


def test_every_curve_has_the_points_of_the_log(tmp_path: Path) -> None:
    run = ordinary_run(tmp_path / "r")
    page = page_of(run)
    epochs = np.arange(1.0, 5.0)
    expected = {
        ("Loss in training", "mean of the epoch"): 7.0 - epochs,
        ("Loss in evaluation", "evaluation"): 6.0 - epochs,
        ("Top-1 accuracy", "top-1"): 30 + 10 * epochs,
        ("Top-1 accuracy", "top-1, EMA"): 31 + 10 * epochs,
        ("Top-5 accuracy", "top-5"): 15 * epochs,
        ("Gradient norm", "gradient norm"): 1.4 + epochs / 10,
        ("Throughput", "images/s"): 890 + 10 * epochs,
        ("Waiting for data", "waiting"): 2 * epochs,
        ("Time of an iteration", "mean of the epoch's lines"): 0.3 + epochs / 10,
    }
    for (title, name), y in expected.items():
        (points,) = curves(picture(page, title))[0, name]
        np.testing.assert_allclose(points[:, 0], epochs, atol=1e-3, err_msg=title)
        np.testing.assert_allclose(points[:, 1], y, rtol=1e-3, err_msg=title)
    x = np.array([e + (i + 1) / 100 for e in range(4) for i in (0, 50, 99)])
    (points,) = curves(picture(page, "Loss in training"))[0, "line of the log"]
    np.testing.assert_allclose(points, np.stack([x, 7.01 - x], axis=1), atol=1e-3)
    (points,) = curves(picture(page, "Learning rate"))[0, "learning rate"]
    np.testing.assert_allclose(points[:, 1], np.repeat([0.001, 0.002, 0.003, 0.004], 3), atol=1e-6)
    assert len(page.all("figure")) == 9


def test_restarts_and_failures_stand_at_their_place_in_every_picture(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    ordinary_run(folder)
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps(event("start", "02T00:00:00", 3, resumed=True)) + "\n")
        file.write(
            '{"time": "2026-11-02T01:00:00+00:00", "event": "fail", "epoch": 3, "iteration": 25, "exit_code": 76}\n'
        )
    page = page_of(read_run(folder, "r"))
    for figure in page.all("figure"):
        assert [float(p.attributes["data-at"]) for p in figure.all("path", "restart")] == [2.5, 3.0]
        assert [float(p.attributes["data-at"]) for p in figure.all("path", "fail")] == [3.25]
    assert page.all("p", "state")[0].text == "r: failed: exit code 76: no reason given"


def test_without_events_the_log_tells_where_a_run_went_back(tmp_path: Path) -> None:
    lines = [iteration_line(0, i, 100, lr=1, loss=1) for i in (0, 50, 99, 50, 99)]
    page = page_of(read_run(write_run(tmp_path / "r", lines=lines), "r"))
    assert [p.attributes["data-at"] for p in picture(page, "Loss in training").all("path", "restart")] == ["0.5"]


def test_a_number_that_is_none_is_a_gap_a_cross_and_a_warning(tmp_path: Path) -> None:
    losses = [5.0, 4.0, float("nan"), 2.0, float("inf"), 1.0, 0.5]
    rows = [epoch_row(i, train_loss=loss) for i, loss in enumerate(losses)]
    text = report_page([read_run(write_run(tmp_path / "r", rows=rows), "r")], now=NOW)
    page = parse_page(text)
    svg = picture(page, "Loss in training")
    pieces = curves(svg)[0, "mean of the epoch"]
    assert [piece[:, 0].round(3).tolist() for piece in pieces] == [[1, 2], [4], [6, 7]]
    assert len(svg.all("path", "cross")) == 1
    assert not picture(page, "Loss in evaluation").all("path", "cross")
    assert "train_loss is not finite in epochs 2, 4 (log.txt)" in page.all("div", "warnings")[0].text
    assert not re.search(r'="[^"]*\b(nan|inf)\b', text), "a picture with NaN in a path"


def test_an_epoch_that_the_log_lacks_is_a_gap(tmp_path: Path) -> None:
    rows = [epoch_row(i) for i in (0, 1, 4, 5)]
    page = page_of(read_run(write_run(tmp_path / "r", rows=rows), "r"))
    pieces = curves(picture(page, "Top-1 accuracy"))[0, "top-1"]
    assert [piece[:, 0].round(3).tolist() for piece in pieces] == [[1, 2], [5, 6]]


def test_runs_stand_side_by_side(tmp_path: Path) -> None:
    runs = [ordinary_run(tmp_path / name, shift=i, lr=0.001 * (i + 1)) for i, name in enumerate("abc")]
    page = page_of(*runs)
    figures = rows_of(tables_below(page, "Summary")[0])
    assert figures[""] == ["1 a", "2 b", "3 c"]
    assert figures["best top-1"] == [f"{70 + i}.00 % in epoch 3" for i in range(3)]
    found = curves(picture(page, "Top-1 accuracy"))
    for i in range(3):
        np.testing.assert_allclose(found[i, "top-1"][0][:, 1], [40 + i, 50 + i, 60 + i, 70 + i], rtol=1e-3)
    assert [label.text.strip() for label in page.all("label")] == ["1 a", "2 b", "3 c"]
    assert {text.text for text in picture(page, "Top-1 accuracy").all("text", "end")} == {"1", "2", "3"}
    different, same = tables_below(page, "Settings")
    assert rows_of(different) == {"setting": ["1 a", "2 b", "3 c"], "lr": ["0.001", "0.002", "0.003"]}
    assert list(rows_of(same)) == ["setting", "model", "epochs", "aa"]


def test_a_run_without_settings_differs_in_none(tmp_path: Path) -> None:
    runs = [ordinary_run(tmp_path / "a"), read_run(write_run(tmp_path / "b", rows=[epoch_row(0)]), "b")]
    (same,) = tables_below(page_of(*runs), "Settings")
    assert rows_of(same)["lr"] == ["0.001", "–"]


def test_nothing_from_a_file_is_more_than_text(tmp_path: Path) -> None:
    bad = HOSTILE.replace("\\", "\\\\")
    folder = write_run(
        tmp_path / "r",
        rows=[epoch_row(0) | {HOSTILE: 1.0}],
        lines=[f"[04:00:00.000001] warning: {HOSTILE}"],
        events=[
            event("start", "01T00:00:00", host=HOSTILE, pid=HOSTILE, device=HOSTILE, paddle=[HOSTILE]),
            event("fail", "01T01:00:00", 0, exit_code=HOSTILE, reason=HOSTILE),
        ],
        settings=yaml.safe_dump({HOSTILE: [HOSTILE]}),
        bad_images=f"{bad}\t{bad}\n",
    )
    text = report_page([read_run(folder, HOSTILE)] * 2, now=NOW)
    page = parse_page(text)
    assert len(page.all("script")) == 1
    assert "alert" not in page.all("script")[0].text
    assert {e.tag for e in page.all("body")[0].inside} == {"h1", "p", "div", "h2", "ul", "h3", "details", "script"}
    shown = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert rows_of(tables_below(page, "Rejected files")[0])[shown] == [shown]
    for place in (page.all("label")[0], page.all("p", "state")[0], page.all("div", "warnings")[0]):
        assert shown in place.text
    assert shown in picture(page, "Loss in training").all("path", "curve")[0].text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text)


def test_the_page_is_one_valid_document_that_loads_nothing(tmp_path: Path) -> None:
    text = report_page([ordinary_run(tmp_path / "r")], now=NOW)
    page = parse_page(text)
    assert text.startswith("<!DOCTYPE html>\n")
    assert page.all("html")[0].attributes == {"lang": "en"}
    assert page.all("meta")[0].attributes == {"charset": "utf-8"}
    assert [title.text for title in page.all("head")[0].all("title")] == ["Training: r"]
    assert "As of 2026-11-21 06:30:00+00:00." in page.text
    everything = page.all("html")[0]
    tags = {e.tag for e in everything.inside[0].inside + everything.inside[1].inside}
    assert not tags & {"link", "img", "iframe", "object"}
    assert not re.search(
        r"\b(src|href|style|on\w+)\s*=|url\(|@import", re.sub(r"<script>.*</script>", "", text, flags=re.S)
    )
    assert "http" not in text.replace("http-equiv", "").replace('"http://www.w3.org/2000/svg"', "")
    # the browser runs this script and this style, and no other: also none that an escape forgot
    policy = next(m.attributes["content"] for m in page.all("meta") if "http-equiv" in m.attributes)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        digest = hashlib.sha256(page.all(tag)[0].text.encode()).digest()
        assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy


def test_a_run_that_has_logged_nothing_yet_has_a_page(tmp_path: Path) -> None:
    page = page_of(read_run(write_run(tmp_path / "r", events=[event("start", "01T00:00:00")]), "r"))
    assert not page.all("figure")
    assert "Nothing to draw yet" in page.text
    assert rows_of(tables_below(page, "Summary")[0])["epochs done"] == ["0"]


def test_every_prefix_of_the_files_gives_a_page(tmp_path: Path) -> None:
    """A run is killed at any byte of any of its files."""
    folder = tmp_path / "r"
    ordinary_run(folder)
    rng = np.random.default_rng(5)
    for name in ("log.txt", "train.log", "events.jsonl", "args.yaml"):
        whole = (folder / name).read_bytes()
        for size in [0, 1, *rng.integers(2, len(whole), 12).tolist()]:
            (folder / name).write_bytes(whole[:size])
            assert page_of(read_run(folder, "r")).all("h1")
        (folder / name).write_bytes(whole)


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bytes_never_break_the_page(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "r"
    ordinary_run(folder)
    rng = np.random.default_rng(seed)
    for name in ("log.txt", "train.log", "events.jsonl", "args.yaml"):
        data = bytearray((folder / name).read_bytes())
        for place in rng.integers(0, len(data), 10):
            data[place] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(data)
    assert page_of(read_run(folder, "r")).all("h1")


def test_a_long_run_is_a_small_page_in_a_short_time(tmp_path: Path) -> None:
    """300 epochs and 1e5 lines here; time and size do not grow faster than the log, the page not at all."""
    rows = [epoch_row(i, train_loss=6 / (i + 1)) for i in range(300)]
    line = iteration_line(0, 0, 400, lr=0.001, loss=0)
    before, after = line.split("Epoch: [0]  [   0/400]")
    lines = [f"{before}Epoch: [{i // 400}]  [{i % 400}/400]{after}" for i in range(100_000)]
    lines[54_321] = lines[54_321].replace("loss: 0.0000", "loss: 99.0000")
    folder = write_run(tmp_path / "r", rows=rows, lines=lines)
    began = time.process_time()
    text = report_page([read_run(folder, "r")], now=NOW)
    assert time.process_time() - began < 10
    assert len(text.encode()) < 500_000
    (points,) = curves(picture(parse_page(text), "Loss in training"))[0, "line of the log"]
    assert len(points) <= 2000
    highest = points[points[:, 1].argmax()]
    np.testing.assert_allclose(highest, [54_322 / 400, 99], rtol=1e-3)
