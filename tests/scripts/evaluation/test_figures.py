"""eval.py's figures against numpy on the model's logits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import write_checkpoint
from tests.scripts.evaluation.conftest import ONE, WNIDS, Evaluate, Place, expected
from tests.trees import write_picture
from util.evaluation.classes import imagenet_wnids


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
