"""From images to shards to a model, as a user does it: the same numbers as from the files themselves."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eval import main as evaluate
from tests.checkpoints import write_checkpoint
from tests.scripts.run import ROOT, TINY, run
from tests.scripts.same_run import log_lines
from tests.trees import write_tree
from util.data.shard_files import ShardOrder
from util.data.splits import load_split
from util.errors import MismatchError, UsageError
from util.options import DataOptions, TrainDataOptions
from util.train.data import load_splits

WNIDS = ["n01440764", "n01440765", "n01440766"]


def shard(*arguments: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "util.data.shard", *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "LC_ALL": "C"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, its shards, and lists of its files in the order of the shards."""
    folder = tmp_path_factory.mktemp("数据 shards")
    write_tree(folder / "data")
    shard("data", "--output", "shards", "--shard_mb", "0.03", cwd=folder)
    for split in ("train", "val"):
        images = load_split(str(folder / "shards"), split)
        files = [f"{split}/{path.partition(':')[2].removesuffix('.jpg')}.JPEG" for path in images.paths]
        lines = (f"{file} {label}\n" for file, label in zip(files, images.labels, strict=True))
        (folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
    write_checkpoint(folder / "model.safetensors", num_classes=3, folders=WNIDS)
    return folder


def test_training_from_shards_gives_the_losses_of_the_files_in_their_order(place: Path) -> None:
    options = (*TINY, "--epochs", "1", "--aa", "rand-m9-mstd0.5-inc1", "--mixup", "0.8", "--lr", "1e-3")
    lists = ("--cls_label_path_train", "train.txt", "--cls_label_path_val", "val.txt")
    run("train.py", "data", *options, *lists, "--experiment", "files", cwd=place)
    done = run("train.py", "shards", *options, "--experiment", "shards", cwd=place)
    assert log_lines(place / "output/train" / "shards") == log_lines(place / "output/train" / "files") != []
    assert "train: 24 images in " in done.stderr
    assert "by shards/train.shards.safetensors" in done.stderr


def test_evaluating_shards_gives_the_result_of_the_files_image_by_image(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    rows = {}
    results = {}
    for data, val in (("data", ["--cls_label_path_val", "val.txt"]), ("shards", [])):  # a list, to have one order
        out = ["--output", f"{data}.csv", "--report", f"{data}-report"]
        few = ["--batch_size", "4", "--num_workers", "0", "--device", "cpu"]
        evaluate([data, "--resume", "model.safetensors", *val, *out, *few])
        results[data] = json.loads(capsys.readouterr().out)
        with open(place / f"{data}.csv", encoding="utf-8", newline="") as file:
            rows[data] = {Path(row.pop("file_name")).stem: row for row in csv.DictReader(file)}
    assert rows["shards"] == rows["data"]
    assert len(rows["data"]) == 12
    assert results["shards"] == results["data"]
    named = load_split("shards", "val").path(0)
    assert re.fullmatch(r"shards/val-00000\d\.tar:n\d{8}/val \d \d\.jpg", named)
    assert (place / "shards.csv").read_text(encoding="utf-8").splitlines()[1].startswith(f"{named},")
    assert (place / "data-report/per_class.csv").read_text() == (place / "shards-report/per_class.csv").read_text()


def splits(folder: Path, window: int | None, *, num_samples: int | None = None, num_classes: int | None = None) -> Any:
    train_data = TrainDataOptions(shard_window=window, num_samples=num_samples)
    return load_splits(DataOptions(data_dir=str(folder)), train_data, num_classes=num_classes, names_file=None, seed=0)


def test_a_window_is_for_shards_alone(place: Path) -> None:
    with pytest.raises(UsageError, match="--shard_window 2 is for tar shards, but the training images are none; leave"):
        splits(place / "data", 2)
    assert splits(place / "shards", None).train_order is None
    order = splits(place / "shards", 2, num_samples=7).train_order
    assert isinstance(order, ShardOrder)
    assert (order.window, len(order.shard)) == (2, 7)


def test_classes_of_both_splits_and_of_the_model_must_agree(place: Path) -> None:
    found = splits(place / "shards", None)
    assert (found.num_classes, found.class_names, found.train.class_names) == (3, WNIDS, WNIDS)
    with pytest.raises(MismatchError, match="has 3 class folders, not 5"):
        splits(place / "shards", None, num_classes=5)


def test_a_changed_shard_is_refused_until_the_index_is_written_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    shard("data", "--output", "changed", "--split", "val", cwd=place)
    os.utime(place / "changed/val-000000.tar", (0, 0))
    with pytest.raises(
        MismatchError, match=r"^changed/val\.shards\.safetensors is not the index .*: val-000000\.tar was"
    ):
        evaluate(["changed", "--resume", "model.safetensors", "--device", "cpu"])
    said = shard("--index", "changed", cwd=place).stderr
    assert "changed/val.shards.safetensors: 12 images in 1 shards" in said
    assert len(load_split("changed", "val")) == 12


def test_the_command_refuses_with_its_exit_codes(place: Path) -> None:
    assert "already there" in shard("data", "--output", "shards", cwd=place, code=73).stderr
    assert "no such data folder" in shard("nothing", "--output", "x", cwd=place, code=66).stderr
