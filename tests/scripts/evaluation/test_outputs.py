# ruff: noqa: E501  a case a line reads better
"""What eval.py writes, and that each of its options changes something."""

import csv
import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from eval import main
from tests.scripts.evaluation.conftest import FEW, ONE, WNIDS, Evaluate, Place
from util.options import EvalOptions


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_each_image_has_a_record_in_the_order_of_the_split(place: Place, evaluate: Evaluate, suffix: str) -> None:
    output = Path(f"images.{suffix}")
    output.write_text("old\n")
    [printed] = evaluate(*ONE, "--output", str(output))
    if suffix == "jsonl":
        records = [json.loads(line) for line in output.read_text().splitlines()]
    else:
        with output.open(newline="") as file:
            rows = list(csv.DictReader(file))
        records = [{k: v if k == "file_name" else json.loads(v) for k, v in row.items()} for row in rows]
    logits = place.logits()
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    best = np.argsort(-logits, axis=1)[:, :5]
    assert [r["file_name"] for r in records] == place.files
    for i, record in enumerate(records):
        label = int(place.labels[i])
        assert record == {
            "file_name": place.files[i],
            "label": label,
            "predicted": int(best[i, 0]),
            "correct": bool(best[i, 0] == label),
            "score": pytest.approx(scores[i, best[i, 0]], abs=1e-5),
            "label_score": pytest.approx(scores[i, label], abs=1e-5),
            "loss": pytest.approx(-np.log(scores[i, label]), abs=1e-4),
            "class_ids": best[i].tolist(),
            "scores": pytest.approx(scores[i, best[i]].tolist(), abs=1e-5),
            "label_names": [WNIDS[c] for c in best[i]],
        }
    assert 100 * np.mean([r["correct"] for r in records]) == pytest.approx(printed["top1"])
    assert np.mean([r["loss"] for r in records]) == pytest.approx(printed["loss"])


def test_a_report_has_tables_and_pictures(place: Place, evaluate: Evaluate) -> None:
    [printed] = evaluate(*ONE, "--report", "deep/report")
    folder = place.folder / "deep/report"
    assert {p.name for p in folder.iterdir()} == {
        "per_class.csv", "confusion.csv", "calibration.csv", "summary.json", "confusion.png", "calibration.png", "per_class.png",
    }  # fmt: skip
    logits = place.logits()
    scores = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).max(axis=1)
    correct, bins = logits.argmax(axis=1) == place.labels, np.ceil(scores * 15)
    ece = sum(abs(correct[bins == b].sum() - scores[bins == b].sum()) for b in range(1, 16)) / len(correct)
    assert list(printed) == ["images", "top1", "top5", "loss", "ece"]
    assert printed["ece"] == pytest.approx(100 * ece, abs=1e-3)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary.items() >= printed.items()
    assert (summary["model"], summary["data"], summary["classes"]) == ("cvt_nano_32x32", "data/val", 7)
    with (folder / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == WNIDS
    assert np.mean([float(row["top1"]) for row in rows]) == pytest.approx(printed["top1"], abs=1e-3)


def test_without_matplotlib_tables_are_written_and_one_line_says_what_is_missing(
    place: Place, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("util.evaluation.outputs.can_draw", lambda: False)
    main(["data", *ONE, *FEW, "--report", "tables"])
    said = capsys.readouterr().err
    assert said.count("matplotlib>=3.8,<4") == said.count("matplotlib: pip install") == 1
    assert not list((place.folder / "tables").glob("*.png"))
    assert len(list((place.folder / "tables").glob("*.csv"))) == 3


OPTIONS: dict[str, list[str]] = {
    "checkpoints": ["--checkpoints", "run"],
    "output": [*ONE, "--output", "effect/o.csv"],
    "report": [*ONE, "--report", "effect/r"],
    "allow_missing": [*ONE, "--allow_missing"],
    "subset": [*ONE, "--subset", "effect/subset.txt"],
    "real_labels": [*ONE, "--real_labels", "real.json"],
    "flip": [*ONE, "--flip"],
}


@pytest.mark.parametrize("name", [f.name for f in fields(EvalOptions)])
def test_every_option_changes_what_is_printed_or_written(place: Place, evaluate: Evaluate, name: str) -> None:
    shutil.rmtree("effect", ignore_errors=True)
    Path("effect").mkdir()
    Path("effect/subset.txt").write_text("0\n1\n")
    first_two = "".join(
        Path("data/flat_list.txt").read_text().splitlines(keepends=True)[:6]
    )  # images of classes 0 and 1
    Path("effect/list.txt").write_text(first_two)
    listed = ["--cls_label_path_val", "effect/list.txt"]
    before = evaluate(*ONE, *listed), sorted(Path("effect").rglob("*"))
    after = evaluate(*OPTIONS[name], *listed), sorted(Path("effect").rglob("*"))
    assert after != before


def test_another_image_backend_changes_a_little_and_is_told(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    losses, told = [], []
    for backend in ("pil", "fast"):
        capsys.readouterr()
        main(["data", *ONE, *FEW, "--crop_pct", "0.6", "--image_backend", backend])
        out, err = capsys.readouterr()
        losses.append(json.loads(out)["loss"])
        told.append("image_backend fast" in err)
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    assert told == [False, True]
