# ruff: noqa: E501  a case a line reads better
"""Several checkpoints and processes, and what goes wrong on the way: each is named, and the others are evaluated."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from eval import main
from tests.checkpoints import PREPROCESS, write_checkpoint
from tests.scripts.evaluation.conftest import FEW, ONE, WNIDS, Evaluate, Place
from tests.scripts.run import ROOT, run
from tests.trees import write_picture
from util.errors import DataError, MismatchError, MissingInputError, OutputError, UsageError, WeightsError


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
