"""The commands that users type, as they are written, with small-run flags appended; also on 1000 classes."""

import ast
import json
from pathlib import Path

import pytest

from models import create_model, list_models
from tests.scripts.run import ROOT, TINY, run
from tests.trees import write_tree

LIST = (ROOT / "demo/imagenet1k_label_list.txt").read_text(encoding="utf-8")


def test_a_thousand_classes_have_imagenet_names(tmp_path: Path) -> None:
    write_tree(tmp_path / "imagenet", num_classes=1000, train=1, val=1, flat_val=True)
    run("train.py", "imagenet", *TINY, "--epochs", "1", "--batch_size", "250", cwd=tmp_path)
    checkpoint = "output/train/cvt_nano_32x32/checkpoint-latest.safetensors"
    done = run("eval.py", "imagenet", "--resume", checkpoint, "-j", "0", cwd=tmp_path)
    assert json.loads(done.stdout)["images"] == 1000
    photographs = [str(ROOT / "demo" / name) for name in ("chelsea.jpg", "coffee.jpg")]
    found = ast.literal_eval(
        run("predict.py", "--infer_imgs", *photographs, "--resume", checkpoint, cwd=tmp_path).stdout
    )
    assert [f["file_name"] for f in found] == photographs
    for f in found:
        for number, name in zip(f["class_ids"], f["label_names"], strict=True):
            assert f"\n{number} {name}\n" in "\n" + LIST


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_commands_of_cvt_13(tmp_path: Path, processes: str) -> None:
    """`run.sh -g N`, then evaluation, prediction, export and inference, with the real model at its real size."""
    write_tree(tmp_path / "imagenet", num_classes=2, train=8, flat_val=True)
    small = ("--epochs", "1", "--batch_size", "4", "--num_workers", "1")
    config = ROOT / "configs/train/cvt/cvt_13_224x224.yaml"
    run(
        "run.sh",
        "-g",
        processes,
        "-t",
        "train",
        "--cfg",
        config,
        "--data_dir",
        "imagenet",
        "--lr",
        "0.1",
        *small,
        cwd=tmp_path,
    )
    checkpoint = "output/train/cvt_13_224x224/checkpoint-latest.safetensors"
    model = ("--model", "cvt_13_224x224", "--resume", checkpoint)
    run(
        "run.sh",
        "-g",
        processes,
        "-t",
        "test",
        "--cfg",
        config,
        "--data_dir",
        "imagenet",
        *small[2:],
        "--resume",
        checkpoint,
        cwd=tmp_path,
    )
    done = run("eval.py", "imagenet/", "--cls_label_path_val", "imagenet/val_list.txt", *model, "--batch_size", "256",
               "--interpolation", "bicubic", cwd=tmp_path)  # fmt: skip
    assert json.loads(done.stdout)["images"] == 8
    image = str(ROOT / "demo/chelsea.jpg")
    predicted = ast.literal_eval(
        run("predict.py", "--infer_imgs", image, *model, "--interpolation", "bicubic", cwd=tmp_path).stdout
    )
    run("export_model.py", *model, "--output", "DIR/", cwd=tmp_path)
    for program in (
        ("--model_file", "DIR/model.pdmodel", "--params_file", "DIR/model.pdiparams"),
        ("--model_dir", "DIR"),
    ):
        inferred = ast.literal_eval(
            run("infer.py", "--interpolation", "bicubic", *program, "--input_file", image, cwd=tmp_path).stdout
        )
        assert inferred[0]["class_ids"] == predicted[0]["class_ids"]
        assert inferred[0]["scores"] == pytest.approx(predicted[0]["scores"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_models() if name != "cvt_13_224x224"])
def test_every_model_exports_to_both_formats(tmp_path: Path, name: str) -> None:
    from safetensors.numpy import save_file

    state = create_model(name, num_classes=10).state_dict()
    save_file({key: value.numpy() for key, value in state.items()}, tmp_path / "weights.safetensors")
    done = run("export_model.py", "--model", name, "--pretrained", "weights.safetensors", "--output", "out",
               cwd=tmp_path, timeout=1800)  # fmt: skip
    assert done.stderr.count("largest difference from the model") == 2
