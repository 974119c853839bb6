# ruff: noqa: E501  a case a line reads better
"""A data set, a checkpoint, and eval.py called on them in this process."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from eval import main
from tests.checkpoints import write_checkpoint
from tests.trees import write_tree
from util.data.images import decode_image
from util.data.transforms import eval_transform

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
