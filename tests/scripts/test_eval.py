# ruff: noqa: E501  a case a line reads better
"""eval.py: its figures against numpy on the model's logits, and everything it writes."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from safetensors.numpy import save_file

from eval import main
from tests.checkpoints import PREPROCESS, write_checkpoint
from tests.scripts.run import ROOT, run
from tests.trees import write_picture, write_tree
from util.data.images import decode_image
from util.data.transforms import eval_transform
from util.errors import DataError, MismatchError, MissingInputError, OutputError, UsageError, WeightsError
from util.evaluation.classes import imagenet_wnids
from util.options import EvalOptions

WNIDS = [f"n{1440764 + i:08d}" for i in range(7)]
FEW = ["--batch_size", "4", "--num_workers", "0", "--device", "cpu"]


@dataclass
class Place:
    """A data set of seven classes, three images each; a checkpoint; and what its model says, in the order of the split."""

    folder: Path
    files: list[str]
    labels: np.ndarray
    model: nn.Layer

    def logits(self, *, mirrored: bool = False) -> np.ndarray:
        transform = eval_transform(input_size=32, crop_pct=1.0)
        images = np.stack([transform(decode_image(self.folder / file)) for file in self.files])
        images = np.ascontiguousarray(images[..., ::-1]) if mirrored else images
        with paddle.no_grad():
            return self.model(paddle.to_tensor(images)).numpy().astype(np.float64)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("eval")
    write_tree(folder / "data", num_classes=7, train=1, val=3)
    model = write_checkpoint(folder / "run/a.safetensors", num_classes=7, folders=WNIDS, ema_seed=3)
    write_checkpoint(folder / "run/b.safetensors", num_classes=7, folders=WNIDS, seed=1)
    files = [f"data/val/{wnid}/val {i} {j}.JPEG" for i, wnid in enumerate(WNIDS) for j in range(3)]
    # the same images, named as ImageNet's, with ReaL labels: none, one or two classes each
    lines = []
    for number, file in enumerate(files, start=1):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        (folder / "data/flat").mkdir(exist_ok=True)
        shutil.copy(folder / file, folder / "data/flat" / name)
        lines.append(f"flat/{name} {(number - 1) // 3}\n")
    (folder / "data/flat_list.txt").write_text("".join(lines))
    real: list[list[int]] = [[], [0], [1, 2], [3], [], [4, 5], [6]] * 3
    (folder / "real.json").write_text(json.dumps(real))
    (folder / "subset.txt").write_text(f"{WNIDS[0]}\n{WNIDS[5]}\n")
    return Place(folder, files, np.repeat(np.arange(7), 3), model)


@pytest.fixture
def place(made: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(made.folder)
    return made


Evaluate = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """Runs eval.py in this process and returns the objects that it prints."""

    def call(*arguments: str, data: str = "data") -> list[dict[str, Any]]:
        capsys.readouterr()
        main([data, *arguments, *FEW])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


def expected(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Figures of logits (N, K), from the definitions."""
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    rank = (scores > own).sum(axis=1)
    return {
        "images": len(labels),
        "top1": pytest.approx(100 * (rank < 1).mean()),
        "top5": pytest.approx(100 * (rank < 5).mean()),
        "loss": pytest.approx(-np.log(own).mean(), abs=1e-5),
    }


ONE = ["--resume", "run/a.safetensors"]

# --- figures


def test_a_plain_call_prints_one_object_with_four_figures(place: Place, evaluate: Evaluate) -> None:
    [found] = evaluate(*ONE)
    assert found == expected(place.logits(), place.labels)
    assert list(found) == ["images", "top1", "top5", "loss"]
    assert 0 < found["top1"] < found["top5"] < 100, "the model tells something"


def test_flip_is_the_mean_of_both_logits(place: Place, evaluate: Evaluate) -> None:
    both = (place.logits() + place.logits(mirrored=True)) / 2
    assert np.abs(both - place.logits()).max() > 0.1
    assert evaluate(*ONE, "--flip") == [expected(both, place.labels)]


def test_a_subset_restricts_the_logits_before_anything_else(place: Place, evaluate: Evaluate) -> None:
    """Classes 0, 5 and 6, named by a file; the data set has images of these alone."""
    (place.folder / "three.txt").write_text(f"{WNIDS[6]}\n{WNIDS[0]}\n{WNIDS[5]}\n")
    chosen = np.isin(place.labels, [0, 5, 6])
    lines = [f"{file.removeprefix('data/')} {label}\n" for file, label in zip(place.files, place.labels, strict=True)]
    (place.folder / "data/three_list.txt").write_text("".join(np.array(lines)[chosen]))
    listed = ["--cls_label_path_val", "three_list.txt", "--subset", "three.txt", "--output", "three.jsonl"]
    [found] = evaluate(*ONE, *listed)
    logits = place.logits()[chosen][:, [0, 5, 6]]
    assert found == expected(logits, np.repeat(np.arange(3), 3))
    assert found != expected(place.logits()[chosen], place.labels[chosen])
    records = [json.loads(line) for line in (place.folder / "three.jsonl").read_text().splitlines()]
    assert [r["label"] for r in records] == [0] * 3 + [5] * 3 + [6] * 3, "the weights' classes"
    assert [r["predicted"] for r in records] == np.array([0, 5, 6])[logits.argmax(axis=1)].tolist()
    assert all(sorted(r["class_ids"]) == [0, 5, 6] and sum(r["scores"]) == pytest.approx(1) for r in records)


def test_the_subset_of_the_folders_that_a_split_has(place: Place, evaluate: Evaluate) -> None:
    for label in (1, 4):
        shutil.copytree(place.folder / "data/val" / WNIDS[label], place.folder / "data/two" / WNIDS[label])
    chosen = np.isin(place.labels, [1, 4])
    logits = place.logits()[chosen]
    assert evaluate(*ONE, "--val_split", "two") == [expected(logits, np.repeat([1, 4], 3))]
    [found] = evaluate(*ONE, "--val_split", "two", "--subset", "folders")
    assert found == expected(logits[:, [1, 4]], np.repeat([0, 1], 3))
    assert found["top5"] == 100


def test_folders_named_by_numbers_mean_these_classes(place: Place, evaluate: Evaluate) -> None:
    """As ImageNet-V2: sorted as texts, 10 would come before 2."""
    model = write_checkpoint(Path("twelve.safetensors"), num_classes=12, seed=5, names=[f"c{i}" for i in range(12)])
    for number in range(12):
        write_picture(Path(f"numbers/val/{number}/a.png"), seed=number)
    numbers = Place(place.folder, [f"numbers/val/{i}/a.png" for i in range(12)], np.arange(12), model)
    [found] = evaluate("--resume", "twelve.safetensors", data="numbers")
    assert found == expected(numbers.logits(), numbers.labels)
    by_text = np.argsort(np.argsort([str(i) for i in range(12)]))
    assert found["loss"] != expected(numbers.logits(), by_text)["loss"], "the order matters"


def test_weights_that_know_no_folders_find_imagenets_by_wordnet_ids(place: Place, evaluate: Evaluate) -> None:
    model = write_checkpoint(Path("thousand.safetensors"), num_classes=1000)
    labels = np.array([3, 500, 999])
    files = [f"wnids/val/{imagenet_wnids()[i]}/a.png" for i in labels]
    for i, file in enumerate(files):
        write_picture(Path(file), seed=i)
    logits = Place(place.folder, files, labels, model).logits()
    weights = ("--resume", "thousand.safetensors")
    assert evaluate(*weights, data="wnids") == [expected(logits, labels)]
    [found] = evaluate(*weights, "--subset", "folders", data="wnids")
    assert found == expected(logits[:, labels], np.arange(3))


def test_real_labels(place: Place, evaluate: Evaluate) -> None:
    real = json.loads(Path("real.json").read_text())
    listed = ["--cls_label_path_val", "flat_list.txt", "--real_labels", "real.json"]
    [found] = evaluate(*ONE, *listed)
    order = np.argsort(-place.logits(), axis=1)
    right1 = [best[0] in own for best, own in zip(order, real, strict=True) if own]
    right5 = [bool(set(best[:5]) & set(own)) for best, own in zip(order, real, strict=True) if own]
    assert list(found)[4:] == ["real_top1", "real_top5", "real_images"]
    assert found == expected(place.logits(), place.labels) | {
        "real_top1": pytest.approx(100 * np.mean(right1)),
        "real_top5": pytest.approx(100 * np.mean(right5)),
        "real_images": 15,
    }


# --- what is written


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


# --- unreadable images


@pytest.fixture
def holes(place: Place) -> list[int]:
    """Makes a copy of the data, `holes`, five images of which cannot be read, a whole batch among them."""
    shutil.rmtree("holes", ignore_errors=True)
    shutil.copytree("data", "holes")
    places = [1, 4, 5, 6, 7]
    for i in places:
        Path(place.files[i].replace("data", "holes", 1)).write_bytes(b"" if i % 2 else b"<html>")
    return places


@pytest.mark.parametrize("workers", ["0", "2"])
def test_missing_images_count_as_wrong_if_that_is_allowed(
    place: Place, holes: list[int], capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    """Top-1 and top-5 over all images, the loss over those that could be read; each is named, none replaced."""
    capsys.readouterr()
    arguments = [
        "holes",
        *ONE,
        *FEW,
        "--num_workers",
        workers,
        "--allow_missing",
        "--output",
        "holes.jsonl",
        "--report",
        "holes-report",
    ]
    main(arguments)
    out, err = capsys.readouterr()
    there = np.setdiff1d(np.arange(21), holes)
    logits, labels = place.logits()[there], place.labels[there]
    best = np.argsort(-logits, axis=1)
    found = json.loads(out)
    assert (found["images"], found["missing"]) == (21, 5)
    assert found["top1"] == pytest.approx(100 * (best[:, 0] == labels).sum() / 21)
    assert found["top5"] == pytest.approx(100 * (best[:, :5] == labels[:, None]).sum() / 21)
    assert found["loss"] == pytest.approx(expected(logits, labels)["loss"].expected, abs=1e-5)
    assert "16 of 21 images could be read; the others count as wrong in top-1 and top-5, and not in the loss:" in err
    records = [json.loads(line) for line in Path("holes.jsonl").read_text().splitlines()]
    assert [i for i, record in enumerate(records) if record["predicted"] is None] == holes
    nothing: dict[str, Any] = {
        "correct": False,
        "score": None,
        "label_score": None,
        "loss": None,
        "class_ids": [],
        "scores": [],
        "label_names": [],
    }
    for i in holes:
        assert records[i].items() >= nothing.items()
        assert records[i]["label"] == place.labels[i]
        assert f"{records[i]['file_name']}: is " in err
    with Path("holes-report/per_class.csv").open(newline="") as file:
        tops = [float(row["top1"]) for row in csv.DictReader(file)]
    assert np.mean(tops) == pytest.approx(found["top1"], abs=1e-3)
    with Path("holes-report/confusion.csv").open(newline="") as file:
        assert sum(int(row["count"]) for row in csv.DictReader(file)) == 16


def test_without_missing_images_the_option_changes_no_figure(place: Place, evaluate: Evaluate) -> None:
    assert evaluate(*ONE, "--allow_missing") == [found | {"missing": 0} for found in evaluate(*ONE)]


def test_missing_images_are_an_error_unless_allowed(place: Place, holes: list[int], evaluate: Evaluate) -> None:
    with pytest.raises(DataError, match=r"unreadable image holes/val/.*val 0 1\.JPEG: is empty"):
        evaluate(*ONE, data="holes")


def test_nothing_but_missing_images_is_an_error(place: Place, holes: list[int], evaluate: Evaluate) -> None:
    for file in place.files:
        Path(file.replace("data", "holes", 1)).write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 21 images can be read; the first: holes/val/.*: is empty"):
        evaluate(*ONE, "--allow_missing", data="holes")


def test_with_many_missing_images_twenty_are_named(
    place: Place, holes: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "".join(f"{file.removeprefix('data/')} 0\n" for i, file in enumerate(place.files) if i in holes) * 5
    Path("holes.txt").write_text(lines + place.files[0].removeprefix("data/") + " 0\n")
    main(["holes", *ONE, *FEW, "--allow_missing", "--cls_label_path_val", "holes.txt"])
    out, err = capsys.readouterr()
    assert json.loads(out)["missing"] == 25
    assert err.count(": is ") == 20
    assert "\n  and 5 more" in err


# --- several checkpoints


def test_several_checkpoints_of_which_one_is_damaged(
    place: Place, evaluate: Evaluate, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are evaluated, each with its own size of images, in the order given."""
    monkeypatch.setattr("util.evaluation.outputs.can_draw", lambda: False)  # for speed
    large = PREPROCESS | {"input_size": [3, 48, 48]}
    write_checkpoint(Path("large/c.safetensors"), num_classes=7, seed=2, folders=WNIDS, preprocess=large)
    write_checkpoint(Path("large/other.safetensors"), num_classes=2, folders=["a", "b"])
    damaged = bytearray(Path("run/a.safetensors").read_bytes())
    damaged[-50] ^= 1
    Path("damaged.safetensors").write_bytes(damaged)
    save_file({"a": np.zeros(3, np.float32)}, "foreign.safetensors")
    names = ["run/b.safetensors", "large/*", "damaged.safetensors", "foreign.safetensors", "run"]
    failed = "large/other.safetensors, damaged.safetensors, foreign.safetensors"
    with pytest.raises(WeightsError, match=re.escape(f"3 of 6 checkpoints were not evaluated: {failed}")):
        evaluate("--checkpoints", *names, "--report", "all", "--output", "all.jsonl")
    said = capsys.readouterr()
    found = [json.loads(line) for line in said.out.splitlines()]
    done = ["run/b.safetensors", "large/c.safetensors", "run/a.safetensors"]
    assert [f["checkpoint"] for f in found] == done
    assert [next(iter(f)) for f in found] == ["checkpoint"] * 3
    assert re.search(
        r"error: large/other\.safetensors: .*the classes n01440764, .* are not among the 2 classes", said.err
    )
    assert said.err.count("error: damaged.safetensors: damaged") == 1
    for f in found:
        [alone] = evaluate("--resume", f["checkpoint"], "--report", "alone")
        assert alone == {k: v for k, v in f.items() if k != "checkpoint"}
    assert len({f["loss"] for f in found}) == 3
    with open("all/checkpoints.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["checkpoint"] for row in rows] == [
        done[0],
        done[1],
        "large/other.safetensors",
        "damaged.safetensors",
        "foreign.safetensors",
        done[2],
    ]
    assert [bool(row["error"]) for row in rows] == [False, False, True, True, True, False]
    assert [float(row["top1"]) for row in rows if row["top1"]] == pytest.approx([f["top1"] for f in found], abs=1e-4)
    assert [row["update"] for row in rows] == ["7", "7", "", "", "", "7"]
    assert Path("all/checkpoints.md").read_text().count("\n") == 8
    assert {p.name for p in Path("all").iterdir() if p.is_dir()} == {"01-run-b", "02-large-c", "06-run-a"}
    records = [json.loads(line) for line in Path("all.jsonl").read_text().splitlines()]
    assert [r["checkpoint"] for r in records] == [name for name in done for _ in range(21)]
    assert [r["file_name"] for r in records] == place.files * 3


def test_averaged_weights_of_several(place: Place, evaluate: Evaluate) -> None:
    [plain] = evaluate("--checkpoints", "run/a.safetensors")
    [averaged] = evaluate("--checkpoints", "run/a.safetensors", "--use_ema")
    assert averaged["loss"] != plain["loss"]


def test_a_recipe_s_pretrained_weights_are_not_what_is_evaluated(place: Place, evaluate: Evaluate) -> None:
    Path("recipe.yaml").write_text("model: cvt_nano_32x32\npretrained: gone.safetensors\nsmoothing: 0.1\n")
    assert evaluate("--config", "recipe.yaml", *ONE) == evaluate(*ONE)
    [found] = evaluate("--config", "recipe.yaml", "--checkpoints", "run/a.safetensors")
    assert found["checkpoint"] == "run/a.safetensors"


# --- mistakes

MISTAKES: dict[str, tuple[list[str], type[Exception], str]] = {
    "two sources": ([*ONE, "--checkpoints", "run"], UsageError, "give either --checkpoints, or one of --resume and --pretrained"),
    "two other sources": (["--pretrained", "x", "--checkpoints", "run"], UsageError, "give either --checkpoints"),
    "a checkpoint that is not there": (["--checkpoints", "run", "gone"], MissingInputError, "gone: no such file or folder"),
    "results in another form": ([*ONE, "--output", "x.txt"], UsageError, "must end in .jsonl or .csv"),
    "results nowhere": ([*ONE, "--output", "nowhere/x.csv"], OutputError, "nowhere/x.csv: cannot be written"),
    "a report in a file": ([*ONE, "--report", "real.json"], OutputError, "real.json: cannot be written"),
    "names without numbers": ([*ONE, "--real_labels", "real.json"], DataError, "val 0 0.JPEG: its name does not say which validation image"),
    "no such labels": ([*ONE, "--real_labels", "gone.json"], MissingInputError, "gone.json: no such file"),
    "no such subset": ([*ONE, "--subset", "gone.txt"], MissingInputError, "gone.txt: no such file"),
    "folders of a list": ([*ONE, "--subset", "folders", "--cls_label_path_val", "flat_list.txt"], UsageError, "flat_list.txt has no class folders"),
    "images of other classes": ([*ONE, "--subset", "subset.txt"], DataError, "n01440765/val 1 0.JPEG is of class 1, which the subset of 2 classes does not have"),
    "an unknown folder": ([*ONE, "--val_split", "strange"], MismatchError, "data/strange: the classes n99999999 are not among the 7 classes of training"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named_and_nothing_is_written_over(place: Place, evaluate: Evaluate, case: str) -> None:
    write_picture(Path("data/strange/n99999999/a.png"), seed=0)
    write_picture(Path(f"data/strange/{WNIDS[0]}/a.png"), seed=0)
    Path("old.jsonl").write_text("old")
    arguments, error, message = MISTAKES[case]
    keep = [] if "--output" in arguments else ["--output", "old.jsonl"]
    with pytest.raises(error, match=re.escape(message)):
        evaluate(*arguments, *keep)
    assert Path("old.jsonl").read_text() == "old"


# --- several processes, as users start them


def port() -> str:
    return str(20000 + os.getpid() % 20000)


def test_three_processes_give_what_one_gives(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """21 images, which 3 x 4 does not divide, and between two checkpoints one that no process can read."""
    Path("broken.safetensors").write_bytes(b"nothing")
    arguments = [
        "--flip",
        "--cls_label_path_val",
        "flat_list.txt",
        "--real_labels",
        "real.json",
        "--batch_size",
        "4",
        "-j",
        "0",
    ]
    arguments += ["--checkpoints", "run/a.safetensors", "broken.safetensors", "run/b.safetensors", "--data_dir", "data"]
    with pytest.raises(WeightsError, match="1 of 3 checkpoints were not evaluated"):
        main([*arguments, "--device", "cpu", "--output", "one.csv"])
    done = run(
        "run.sh", "-g", "3", "-t", "test", "-p", port(), *arguments, "--output", "three.csv", cwd=place.folder, code=65
    )
    assert done.stderr.count("error: 1 of 3 checkpoints were not evaluated: broken.safetensors") == 1
    # a job that fails shows its log twice
    printed = [line for line in dict.fromkeys(done.stdout.splitlines()) if line.startswith('{"checkpoint"')]
    one, three = ([json.loads(line) for line in lines] for lines in (capsys.readouterr().out.splitlines(), printed))
    assert [f["checkpoint"] for f in three] == ["run/a.safetensors", "run/b.safetensors"]
    for mine, theirs in zip(one, three, strict=True):
        assert mine.pop("loss") == pytest.approx(theirs.pop("loss"), abs=1e-5)
        assert mine == theirs
    with open("one.csv", newline="") as first, open("three.csv", newline="") as second:
        images = list(zip(csv.DictReader(first), csv.DictReader(second), strict=True))
    assert len(images) == 42
    for mine, theirs in images:
        for key in ("checkpoint", "file_name", "label", "predicted", "correct", "class_ids"):
            assert mine[key] == theirs[key]
        assert float(mine["loss"]) == pytest.approx(float(theirs["loss"]), abs=1e-4)


# --- what goes wrong on the way


def test_a_checkpoint_that_vanishes_or_is_no_file_does_not_keep_the_others(
    place: Place, evaluate: Evaluate, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("util.evaluation.outputs.can_draw", lambda: False)
    shutil.rmtree("odd", ignore_errors=True)
    shutil.copytree("run", "odd")
    Path("odd/aa.safetensors").mkdir()
    Path("odd/ab.safetensors").symlink_to("nowhere")
    with pytest.raises(WeightsError, match=r"2 of 4 checkpoints were not evaluated: odd/aa.*, odd/ab"):
        evaluate("--checkpoints", "odd", "--report", "odd_report", "--output", "odd.jsonl")
    said = capsys.readouterr()
    assert [json.loads(line)["checkpoint"] for line in said.out.splitlines()] == [
        "odd/a.safetensors", "odd/b.safetensors",
    ]  # fmt: skip
    folder = "is a folder, without export.json of an exported model; name a file in it"
    assert f"error: odd/aa.safetensors: {folder}" in said.err
    with open("odd_report/checkpoints.csv", newline="") as file:
        errors = [row["error"] for row in csv.DictReader(file)]
    assert errors == ["", f"odd/aa.safetensors: {folder}", "odd/ab.safetensors: no such file", ""]
    assert len(Path("odd.jsonl").read_text().splitlines()) == 2 * 21


def test_data_that_is_missing_is_not_blamed_on_the_checkpoint(place: Place, evaluate: Evaluate) -> None:
    with pytest.raises(MissingInputError, match="gone: no such data folder"):
        evaluate("--checkpoints", "run", data="gone")
    with pytest.raises(MissingInputError, match=r"gone\.txt: no such file"):
        evaluate("--checkpoints", "run", "--class_names", "gone.txt")


def test_an_interrupted_evaluation_leaves_no_results_file(
    place: Place, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it evaluates there is none, so that a kill cannot leave one either."""
    Path("stop").mkdir(exist_ok=True)

    def stopped(*_: Any, **__: Any) -> None:
        assert os.listdir("stop") == []
        raise KeyboardInterrupt

    monkeypatch.setattr("util.evaluation.task.evaluate_images", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(*ONE, "--output", "stop/x.csv")
    assert os.listdir("stop") == []


def test_a_full_disk_is_named_and_loses_nothing_else(place: Place, tmp_path: Path) -> None:
    command = f"ulimit -f 1; exec '{sys.executable}' '{ROOT}/eval.py' data --resume run/a.safetensors {' '.join(FEW)}"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    full = ["bash", "-c", f"{command} --output '{tmp_path}/x.jsonl' --report '{tmp_path}/r'"]
    done = subprocess.run(full, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 74, done.stderr
    assert json.loads(done.stdout)["images"] == 21
    [error] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(rf"{tmp_path}/x\.jsonl: not written after \d+ results: File too large; make room", error)
    assert re.search(rf"{tmp_path}/r: the report lacks confusion\.png, ", error)
    assert not (tmp_path / "x.jsonl").exists()
    assert (tmp_path / "r/calibration.csv").stat().st_size > 0
    assert not list(tmp_path.rglob(".tmp-*"))
