"""Train, evaluate, predict, export, infer: each command of the contract, on a small ImageNet-like tree."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.scripts.run import ROOT, TINY, run
from tests.trees import write_tree

LOG_LINE = re.compile(
    r"^\[\d\d:\d\d:\d\d\.\d{6}\] Epoch: \[\d+\]  \[ *\d+/\d+\]  eta: (?:\d+ days?, )?\d+:\d\d:\d\d  lr: \d+\.\d{6}  "
    r"loss: \d+\.\d{4} \(\d+\.\d{4}\)  time: \d+\.\d{4}  data: \d+\.\d{4}$"
)

EXPORTED = {
    "model.json", "model.pdmodel", "model.pdiparams", "export.json",
    "inference.yml", "inference.json", "inference.pdmodel", "inference.pdiparams",  # as PaddleX and PaddleClas want it
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with `imagenet/` (three classes, flat val with a list) and a trained run."""
    folder = tmp_path_factory.mktemp("chain")
    write_tree(folder / "imagenet", flat_val=True)
    done = run(
        "train.py", "imagenet/", "--config", ROOT / "configs/train/cvt/cvt_13_224x224.yaml", "--epochs", "2", *TINY,
        "--input_size", "32", "--crop_pct", "1", "--model_ema", "--log_interval", "2", "--checkpoint_interval", "1",
        cwd=folder,
    )  # fmt: skip
    (folder / "train.stderr").write_text(done.stderr, encoding="utf-8")
    assert done.stdout == ""
    return folder


def checkpoint(folder: Path, name: str = "latest") -> Path:
    return folder / "output/train/cvt_nano_32x32" / f"checkpoint-{name}.safetensors"


def result(stdout: str) -> list[dict[str, Any]]:
    """The one line that predict and infer print."""
    assert stdout.count("\n") == 1
    found = ast.literal_eval(stdout)
    assert all(list(f) == ["class_ids", "scores", "file_name", "label_names"] for f in found)
    assert all(sorted(f["scores"], reverse=True) == f["scores"] for f in found)
    return found


def test_run_folder(trained: Path) -> None:
    folder = trained / "output/train/cvt_nano_32x32"
    names = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
    assert names == {
        "args.yaml", "train.log", "log.txt", "checkpoint-latest.safetensors", "checkpoint-best.safetensors",
        "checkpoint-best-ema.safetensors", "checkpoint-000000002.safetensors", "checkpoint-000000004.safetensors",
        "checkpoint-previous.safetensors", "events.jsonl",
    }  # fmt: skip
    lines = [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    wanted = {"train_lr", "train_loss", "test_loss", "test_acc1", "test_acc5", "best_acc1", "epoch", "seconds"}
    wanted |= {"images_per_second", "data_wait", "grad_norm", "test_loss_ema", "test_acc1_ema", "best_acc1_ema"}
    assert wanted <= lines[0].keys()
    assert lines[1]["best_acc1"] == max(line["test_acc1"] for line in lines)


def test_log(trained: Path) -> None:
    text = (trained / "train.stderr").read_text()
    epochs = [line for line in text.splitlines() if "eta:" in line]
    assert [re.search(r"\[ *(\d+)/6\]", line)[1] for line in epochs] == ["0", "2", "4", "5"] * 2  # type: ignore[index]
    assert all(LOG_LINE.match(line) for line in epochs)
    assert "effective batch 16 = 4 images x 1 processes x 4 micro-batches; 6 iterations and 2 updates an epoch" in text
    assert "257,304" not in text  # the head has three classes here
    assert re.search(r"cvt_nano_32x32: [\d,]+ parameters, [\d,]+ of them trained, 0\.\d+ GMACs", text)
    assert re.search(r"weight decay 0.05 on 40 tensors: .*head.weight \(1\)", text)
    assert "no weight decay on 77 tensors" in text
    assert "sync_bn of the recipe needs a GPU" in text
    file = (trained / "output/train/cvt_nano_32x32/train.log").read_text()
    assert set(file.splitlines()) <= set(text.splitlines())


def test_args_load_back_as_a_config(trained: Path) -> None:
    args = trained / "output/train/cvt_nano_32x32/args.yaml"
    values = yaml.safe_load(args.read_text())
    assert values["input_size"] == [3, 32, 32]
    assert "resume" not in values
    assert "num_workers" not in values
    done = run("train.py", "-c", args, "--num_workers", "0", cwd=trained)
    assert "this run is finished" in done.stderr


def test_eval_counts_every_image_once(trained: Path) -> None:
    done = run(
        "eval.py", "imagenet/", "--cls_label_path_val", "imagenet/val_list.txt", "--model", "cvt_nano_32x32",
        "--batch_size", "5", "--interpolation", "bicubic", "--resume", checkpoint(trained), "-j", "0", cwd=trained,
    )  # fmt: skip
    metrics = json.loads(done.stdout)
    assert list(metrics) == ["images", "top1", "top5", "loss"]
    last = json.loads((trained / "output/train/cvt_nano_32x32/log.txt").read_text().splitlines()[-1])
    assert metrics["images"] == 12
    assert metrics["top1"] == pytest.approx(last["test_acc1"])
    assert metrics["top5"] == 100.0
    assert metrics["loss"] == pytest.approx(last["test_loss"], abs=1e-6)


def test_eval_takes_a_training_recipe_and_the_average(trained: Path) -> None:
    config = trained / "output/train/cvt_nano_32x32/args.yaml"
    done = run(
        "eval.py", "--config", config, "--data_dir", "imagenet", "--ckpt_path", checkpoint(trained), "--use_ema",
        "--num_workers", "0", cwd=trained,
    )  # fmt: skip
    last = json.loads((trained / "output/train/cvt_nano_32x32/log.txt").read_text().splitlines()[-1])
    assert json.loads(done.stdout)["loss"] == pytest.approx(last["test_loss_ema"], abs=1e-6)


def test_predict_export_infer_agree(trained: Path) -> None:
    images = "imagenet/val"
    predicted = result(run("predict.py", "--infer_imgs", images, "--resume", checkpoint(trained), cwd=trained).stdout)
    assert len(predicted) == 12
    assert [p["file_name"] for p in predicted] == sorted(p["file_name"] for p in predicted)
    assert predicted[0]["label_names"][0] in {"n01440764", "n01440765", "n01440766"}

    done = run(
        "export_model.py", "--model", "cvt_nano_32x32", "--output", "out/", "--resume", checkpoint(trained), cwd=trained
    )
    assert len(re.findall(r"largest difference from the model \d\.\d\de-\d\d", done.stderr)) == 2
    names = {p.name for p in (trained / "out").iterdir()}
    assert names == EXPORTED
    manifest = json.loads((trained / "out/export.json").read_text())
    assert manifest["input_shape"] == [None, 3, 32, 32]
    assert manifest["class_names"] == ["n01440764", "n01440765", "n01440766"]

    for arguments in (
        ["--model_dir", "out", "--batch_size", "5"],
        ["--model_file", "out/model.pdmodel", "--params_file", "out/model.pdiparams", "--no_onednn"],
        ["--model_dir", "out", "--engine", "paddle"],
        ["--model_dir", "out", "--engine", "openvino", "--cpu_threads", "1"],
    ):
        inferred = result(run("infer.py", *arguments, "--input_file", images, cwd=trained).stdout)
        for p, i in zip(predicted, inferred, strict=True):
            assert (p["file_name"], p["class_ids"], p["label_names"]) == (
                i["file_name"],
                i["class_ids"],
                i["label_names"],
            )
            assert p["scores"] == pytest.approx(i["scores"], abs=1e-5)


def test_onnx_and_int8(trained: Path) -> None:
    export = ("export_model.py", "--output", "onnx", "--resume", checkpoint(trained))
    run(*export, "--format", "onnx", cwd=trained)
    assert (trained / "onnx/model.onnx").exists()
    images = ("--model_dir", "onnx", "--input_file", "imagenet/val")
    refused = run("infer.py", *images, "--precision", "int8", cwd=trained, code=66)
    assert "model.int8.onnx: no such file; export it with export_model.py --int8 CALIBRATION_FOLDER" in refused.stderr
    done = run(*export, "--int8", "imagenet/val", cwd=trained)
    assert re.search(r"best class is that of fp32 for \d+\.\d\d % of 6 pictures", done.stderr)
    predicted = result(run("predict.py", "--infer_imgs", "imagenet/val", "--resume", checkpoint(trained),
                           cwd=trained).stdout)  # fmt: skip
    for precision, tolerance in (("fp32", 1e-5), ("int8", 0.1)):
        done = run("infer.py", *images, "--engine", "onnxruntime", "--precision", precision, cwd=trained)
        assert re.search(rf"^engine: ONNX Runtime [\d.]+, {precision}, cpu, \d+ CPU threads, model", done.stderr, re.M)
        for p, i in zip(predicted, result(done.stdout), strict=True):
            scores = dict(zip(i["class_ids"], i["scores"], strict=True))
            assert [scores[c] for c in p["class_ids"]] == pytest.approx(p["scores"], abs=tolerance)
    job = ("infer.py", *images, "--output", "engines.jsonl", "--continue")
    run(*job, "--engine", "onnxruntime", cwd=trained)
    assert "12 results in engines.jsonl" in run(*job, "--engine", "openvino", cwd=trained).stderr, "another engine may"
    refused = run(*job, "--precision", "int8", cwd=trained, code=78)
    assert "the job had another precision" in refused.stderr
    run(*export, cwd=trained)  # what belongs to the export before goes
    assert {path.name for path in (trained / "onnx").iterdir()} == EXPORTED
    refused = run("predict.py", "--infer_imgs", "imagenet/val", "--resume", "onnx", cwd=trained, code=65)
    assert "export with --no_fold" in refused.stderr
    run(*export, "--no_fold", cwd=trained)
    again = run("predict.py", "--infer_imgs", "imagenet/val", "--resume", "onnx", cwd=trained)
    assert result(again.stdout) == predicted


def test_results_go_to_a_file_as_they_come(trained: Path) -> None:
    done = run(
        "predict.py",
        "--infer_imgs",
        "imagenet/val",
        "--resume",
        checkpoint(trained),
        "--output",
        "p.jsonl",
        cwd=trained,
    )
    assert done.stdout == ""
    assert len([json.loads(line) for line in (trained / "p.jsonl").read_text().splitlines()]) == 12


def test_pretrained_weights_get_a_new_head(trained: Path) -> None:
    write_tree(trained / "two", num_classes=2)
    done = run(
        "train.py",
        "two",
        *TINY,
        "--epochs",
        "1",
        "--pretrained",
        checkpoint(trained),
        "--experiment",
        "two",
        cwd=trained,
    )
    assert "a new head: head.weight, head.bias had another shape" in done.stderr
    # folders are matched by name: two of the three classes can be evaluated
    done = run("eval.py", "two", "--resume", checkpoint(trained), "-j", "0", cwd=trained)
    assert json.loads(done.stdout)["images"] == 8


def test_wandb_offline(trained: Path) -> None:
    done = run(
        "train.py",
        "imagenet",
        *TINY,
        "--epochs",
        "1",
        "--log_wandb",
        "--wandb_project",
        "demo",
        "--experiment",
        "wandb",
        cwd=trained,
    )
    assert done.returncode == 0
    assert list((trained / "output/train/wandb/wandb").glob("offline-run-*"))


def test_dynamic_size_exports(trained: Path) -> None:
    run("export_model.py", "--output", "dynamic", "--resume", checkpoint(trained), "--dynamic_size", cwd=trained)
    size = ("--input_size", "48", "--crop_pct", "1")  # the model is for 32
    predicted = run("predict.py", "--infer_imgs", "imagenet/val", *size, "--resume", checkpoint(trained), cwd=trained)
    inferred = run("infer.py", "--input_file", "imagenet/val", *size, "--model_dir", "dynamic", cwd=trained)
    for p, i in zip(result(predicted.stdout), result(inferred.stdout), strict=True):
        assert p["scores"] == pytest.approx(i["scores"], abs=1e-5)
