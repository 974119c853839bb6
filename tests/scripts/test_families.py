"""ConViT and ViT through all scripts, by the commands of the README."""

import ast
import json
from pathlib import Path

import pytest

from tests.scripts.run import ROOT, last_error, run
from tests.trees import write_picture, write_tree
from util.weights.container import read_container

SMALL = ("--epochs", "1", "--batch_size", "4", "--num_workers", "0", "--input_size", "32", "--crop_pct", "1",
         "--warmup_epochs", "0")  # fmt: skip


def check_all_scripts(folder: Path, config: Path, name: str, *train: str, spelling: str) -> None:
    """Trains, evaluates by the recipe and `--ckpt_path`, predicts, exports and infers."""
    write_tree(folder / "imagenet", num_classes=3)
    write_picture(folder / "x.png", seed=1, size=(60, 44))
    done = run("train.py", *train, "--data_dir", "imagenet", *SMALL, cwd=folder)
    assert f"{name}: " in done.stderr
    checkpoint = f"output/train/{name}/checkpoint-latest.safetensors"
    state = read_container(folder / checkpoint).state
    assert state["model"] == {"name": name, "num_classes": 3}
    assert state["numerics"] == {"act": "gelu", "norm_eps": 1e-6}
    assert state["preprocess"]["input_size"] == [3, 32, 32]
    last = json.loads((folder / checkpoint).with_name("log.txt").read_text().splitlines()[-1])
    tested = run("eval.py", "--config", config, "--data_dir", "imagenet", "--ckpt_path", checkpoint, "-j", "0",
                 *SMALL[-6:-2], "--model", spelling, cwd=folder)  # fmt: skip
    assert json.loads(tested.stdout)["loss"] == pytest.approx(last["test_loss"], abs=1e-5)
    predicted = ast.literal_eval(run("predict.py", "--infer_imgs", "x.png", "--resume", checkpoint, cwd=folder).stdout)
    run("export_model.py", "--resume", checkpoint, "--output", "out", cwd=folder)
    infer = ("infer.py", "--model_file", "out/model.pdmodel", "--input_file", "x.png")
    inferred = ast.literal_eval(run(*infer, cwd=folder).stdout)
    assert inferred[0]["class_ids"] == predicted[0]["class_ids"]
    assert inferred[0]["scores"] == pytest.approx(predicted[0]["scores"], abs=1e-5)


def test_convit(tmp_path: Path) -> None:
    config = ROOT / "configs/train/convit/convit_tiny.yaml"
    check_all_scripts(tmp_path, config, "convit_tiny", "--config", str(config), spelling="convit_tiny")
    weights = ("--resume", "output/train/convit_tiny/checkpoint-latest.safetensors")
    larger = run("predict.py", "--infer_imgs", "x.png", *weights, "--input_size", "48", cwd=tmp_path)
    assert "pos_embed resampled from 2 x 2 to 3 x 3" in larger.stderr
    refused = run("export_model.py", *weights, "--output", "o", "--dynamic_size", cwd=tmp_path, code=2)
    assert "--dynamic_size: convit_tiny has a position for each patch of images of 32 x 32" in last_error(refused)


@pytest.mark.slow
def test_vit(tmp_path: Path) -> None:
    config = ROOT / "configs/train/vit/vit_ti_16_224.yaml"
    check_all_scripts(tmp_path, config, "vit_ti_16_224", "-c", str(config), "--lr", "0.1", spelling="vit_ti16_224")


@pytest.mark.slow
def test_the_command_of_vit_b_32(tmp_path: Path) -> None:
    config = ROOT / "configs/train/vit/vit_b_32_224.yaml"
    write_tree(tmp_path / "imagenet", num_classes=2, train=8)
    run("train.py", "-c", config, "--data_dir", "imagenet", "--lr", "0.1", "--epochs", "1", "--batch_size", "4",
        "--num_workers", "1", "--warmup_epochs", "0", cwd=tmp_path)  # fmt: skip
    checkpoint = "output/train/vit_b_32_224/checkpoint-latest.safetensors"
    done = run("eval.py", "-c", config, "--data_dir", "imagenet", "--ckpt_path", checkpoint, cwd=tmp_path)
    assert json.loads(done.stdout)["images"] == 8


def test_images_that_patches_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "imagenet", num_classes=3)
    done = run("train.py", "imagenet", "--model", "vit_ti_16_224", *SMALL, "--input_size", "40", cwd=tmp_path, code=2)
    assert "img_size 40 x 40 is not made of patches of 16 x 16; use multiples of 16" in last_error(done)
