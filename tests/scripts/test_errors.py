# ruff: noqa: E501  a case a line reads better
"""What users get wrong: one clear line, the right exit code, nothing written over."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import models
from tests.scripts.run import ROOT, TINY, last_error, run
from tests.trees import write_picture, write_tree
from util.options import ModelOptions, PreprocessOptions, WeightsOptions
from util.weights import WeightsError
from util.weights.container import read_container, write_container

CHECKPOINT = "output/train/cvt_nano_32x32/checkpoint-latest.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a trained checkpoint, and an export."""
    place = tmp_path_factory.mktemp("errors")
    write_tree(place / "data", flat_val=True)
    run("train.py", "data", *TINY, "--epochs", "1", cwd=place)
    run("export_model.py", "--resume", CHECKPOINT, "--output", "export", cwd=place)
    return place


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file of the run and the export."""
    files = [p for top in ("output", "export") for p in (folder / top).rglob("*") if p.is_file()]
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in files if p.name != ".lock"}


WEIGHTS = ("--resume", CHECKPOINT)
CASES = {
    "no weights": (["eval.py", "data"], 2, "give a checkpoint with --resume"),
    "no such checkpoint": (["predict.py", "--infer_imgs", "data", "--resume", "nope.safetensors"], 66, "nope.safetensors: no such file"),
    "another model's checkpoint": (["eval.py", "data", "--model", "cvt_13_224x224", *WEIGHTS], 78, "holds cvt_nano_32x32, not cvt_13_224x224"),
    "other classes": (["eval.py", "data", "--num_classes", "5", *WEIGHTS], 78, "has 3 classes, not 5"),
    "not a checkpoint": (["eval.py", "data", "--resume", "data/val_list.txt"], 65, "not a weights file of a known format (safetensors, paddle, torch, mindspore)"),
    "no averaged weights": (["eval.py", "data", "--use_ema", *WEIGHTS], 65, "holds no averaged weights"),
    "missing list": (["eval.py", "data", "--cls_label_path_val", "nope.txt", *WEIGHTS], 66, "nope.txt: no such file"),
    "list entry missing": (["train.py", "data", "--cls_label_path_train", "missing.txt", *TINY], 65, "missing.txt:2: data/train/nope.JPEG: no such file"),
    "label outside": (["eval.py", "data", "--cls_label_path_val", "outside.txt", *WEIGHTS], 65, "outside.txt:1: label 3 is outside the 3 classes (0 to 2)"),
    "no data": (["train.py", "nowhere", *TINY], 66, "nowhere: no such data folder"),
    "flat val without a list": (["train.py", "flat", *TINY], 65, "or list them as `val/name label` in flat/val_list.txt"),
    "empty class folder": (["train.py", "empty", *TINY], 65, "class folders without images"),
    "unknown class in val": (["eval.py", "extra", *WEIGHTS], 78, "the classes n99999999 are not among the 3 classes of training"),
    "unknown flag": (["train.py", "data", "--learning_rate", "1", *TINY], 2, "unknown option --learning_rate"),
    "misspelt flag": (["train.py", "data", "--wieght_decay", "1", *TINY], 2, "did you mean --weight_decay?"),
    "unknown key": (["train.py", "data", "-c", "unknown.yaml", *TINY], 2, "unknown.yaml: unknown setting weight_deacy; did you mean weight_decay?"),
    "ill-typed key": (["train.py", "data", "-c", "typed.yaml", *TINY], 2, "typed.yaml: epochs must be an integer; got 'many'"),
    "no such config": (["train.py", "data", "-c", "nope.yaml"], 66, "nope.yaml: no such configuration file"),
    "yacs override": (["train.py", "TRAIN.LR", "0.1", *TINY], 2, "write --lr 0.1"),
    "no model": (["train.py", "data"], 2, "name one with --model"),
    "unknown model": (["train.py", "data", "--model", "cvt_14"], 2, "unknown model 'cvt_14'"),
    "batch too large": (["train.py", "data", *TINY, "--batch_size", "25"], 2, "batch_size 25 x 1 processes needs at least 25 training images; 24 were found"),
    "amp on CPU": (["train.py", "data", *TINY, "--amp"], 2, "--amp needs a GPU"),
    "no GPU": (["eval.py", "data", "--device", "gpu", *WEIGHTS], 2, "--device gpu: this PaddlePaddle has no GPU"),
    "folder is a file": (["train.py", "data", *TINY, "--output", "data/val_list.txt"], 73, "cannot be written"),
    "export into a file": (["export_model.py", *WEIGHTS, "--output", "data/val_list.txt"], 73, "cannot be written"),
    "a form that paddle2onnx does not survive": (
        ["export_model.py", *WEIGHTS, "--output", "x", "--no_fold", "--dynamic_size", "--format", "onnx"], 2,
        "--no_fold with --dynamic_size cannot be written as ONNX",
    ),
    "export into no folder": (["export_model.py", *WEIGHTS, "--output", ""], 2, "output must be UTF-8 text; got ''"),
    "no output": (["export_model.py", *WEIGHTS], 2, "name the folder for the exported files with --output"),
    "results elsewhere": (["predict.py", "--infer_imgs", "data/val", *WEIGHTS, "--output", "nowhere/x.csv"], 73, "nowhere/x.csv: cannot be written"),
    "results in another form": (["predict.py", "--infer_imgs", "data/val", *WEIGHTS, "--output", "x.txt"], 2, "must end in .jsonl or .csv"),
    "nothing to predict": (["predict.py", "--infer_imgs", "data/*.tiff", *WEIGHTS], 66, "nothing matches"),
    "no such export": (["infer.py", "--model_dir", "nowhere", "--input_file", "data/val"], 66, "nowhere: no such file or folder"),
    "size of another export": (["infer.py", "--model_dir", "export", "--input_size", "48", "--input_file", "data/val"], 78, "exported for H = 32, not 48"),
    "program of another export": (["infer.py", "--model_file", "mixed/model.json", "--input_file", "data/val"], 65, "its sha256 is not what mixed/export.json says"),
    "parameters are missing": (["infer.py", "--model_dir", "gone", "--input_file", "data/val"], 66, "gone/model.pdiparams"),
    "one bit of the parameters": (["infer.py", "--model_dir", "flipped", "--input_file", "data/val"], 65, "flipped/model.pdiparams is damaged"),
}  # fmt: skip


@pytest.fixture(scope="module")
def broken(folder: Path) -> Path:
    """The files that the cases name."""
    (folder / "missing.txt").write_text("train/n01440764/n01440764 0.JPEG 0\ntrain/nope.JPEG 1\n")
    (folder / "outside.txt").write_text("val/val 0 0.JPEG 3\n")
    (folder / "unknown.yaml").write_text("weight_deacy: 0.1\n")
    (folder / "typed.yaml").write_text("epochs: many\n")
    write_tree(folder / "flat", flat_val=True)
    (folder / "flat/val_list.txt").unlink()
    write_tree(folder / "empty")
    (folder / "empty/train/n00000000").mkdir()
    write_tree(folder / "extra")
    write_picture(folder / "extra/val/n99999999/a.JPEG", seed=1)
    for name in ("mixed", "gone", "flipped"):
        shutil.copytree(folder / "export", folder / name)
    (folder / "mixed/model.json").write_text("{}")
    (folder / "gone/model.pdiparams").unlink()
    parameters = folder / "flipped/model.pdiparams"
    data = bytearray(parameters.read_bytes())
    data[len(data) // 2] ^= 1
    parameters.write_bytes(data)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_bad_input(broken: Path, case: str) -> None:
    command, code, message = CASES[case]
    before = snapshot(broken)
    done = run(*command, cwd=broken, code=code)
    assert message in last_error(done)
    assert done.stdout == ""
    assert snapshot(broken) == before


def test_an_unreadable_image_stops_a_small_training_and_every_evaluation(folder: Path) -> None:
    write_tree(folder / "rotten")
    bad = folder / "rotten/train/n01440765/n01440765 3.JPEG"
    bad.write_bytes(bad.read_bytes()[:300])
    for workers in ("0", "2"):
        arguments = (*TINY, "--num_workers", workers, "--epochs", "1", "--experiment", "rotten")
        error = last_error(run("train.py", "rotten", *arguments, cwd=folder, code=65))
        assert error.startswith("1 unreadable training images, --bad_images 0.001 of 24 allows 0: ")
        assert "rotten/train/n01440765/n01440765 3.JPEG: cannot be decoded" in error
    assert not list((folder / "output/train/rotten").glob("checkpoint*"))
    (folder / "rotten/val/n01440764/val 0 1.JPEG").write_bytes(b"")
    error = last_error(run("eval.py", "rotten", *WEIGHTS, "-j", "0", cwd=folder, code=65))
    assert "val 0 1.JPEG: is empty" in error


@pytest.mark.parametrize("script", ["predict.py", "infer.py"])
def test_unreadable_images_are_named_and_the_others_answered(folder: Path, script: str) -> None:
    write_tree(folder / "some", num_classes=1, train=3)
    (folder / "some/train/n01440764/n01440764 1.JPEG").write_text("<html>")
    images = "some/train"
    arguments = (
        ["--infer_imgs", images, *WEIGHTS]
        if script == "predict.py"
        else ["--input_file", images, "--model_dir", "export"]
    )
    done = run(script, *arguments, cwd=folder, code=65)
    assert done.stdout.count("file_name") == 2
    assert "1 of 3 images could not be read" in done.stderr
    assert "n01440764 1.JPEG: is not an image" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root can write everywhere")
def test_an_unwritable_folder_is_refused_before_training(folder: Path) -> None:
    place = folder / "locked"
    place.mkdir(exist_ok=True)
    place.chmod(0o555)
    command = [sys.executable, str(ROOT / "train.py"), "data", *TINY, "--epochs", "1", "--output", "locked/train"]
    if os.geteuid() == 0:  # drop what lets root write anyway
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    place.chmod(0o755)
    assert done.returncode == 73, done.stderr
    assert "locked/train/cvt_nano_32x32: cannot be written: Permission denied" in last_error(done)


def test_a_second_run_in_the_same_folder_is_kept_out(folder: Path) -> None:
    arguments = ("data", *TINY, "--epochs", "400", "--experiment", "busy")
    first = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments], cwd=folder, stderr=subprocess.DEVNULL
    )
    try:
        checkpoint = folder / "output/train/busy/checkpoint-latest.safetensors"
        _wait_for(checkpoint)
        error = last_error(run("train.py", *arguments, cwd=folder, code=73))
        assert f"another run is training here (pid {first.pid} on " in error
        first.send_signal(signal.SIGINT)
        assert first.wait(timeout=60) == 130
    finally:
        first.kill()
    # what was complete still is: the run continues
    epoch = (folder / "output/train/busy/log.txt").read_text().count("\n")
    assert epoch >= 1
    done = subprocess.run(
        [sys.executable, str(ROOT / "eval.py"), "data", "--resume", str(checkpoint), "-j", "0"],
        cwd=folder, capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0


def _wait_for(path: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.1)


@pytest.mark.parametrize("script", ["train.py", "eval.py", "predict.py", "export_model.py", "infer.py"])
def test_help_names_every_option_with_its_default(folder: Path, script: str) -> None:
    text = run(script, "--help", cwd=folder).stdout
    assert "(default:" in text
    assert "--config" in text


def test_a_loss_that_explodes_ends_with_76_and_keeps_the_last_checkpoint(folder: Path) -> None:
    arguments = ("data", *TINY, "--experiment", "nan", "--opt", "momentum", "--min_lr", "1e6", "--lr", "1e6")
    run("train.py", *arguments[:-2], "--lr", "1e-3", "--min_lr", "1e-3", "--epochs", "1", cwd=folder)
    before = (folder / "output/train/nan/checkpoint-latest.safetensors").read_bytes()
    done = run("train.py", *arguments, "--epochs", "2", "--resume", "output/train/nan/checkpoint-latest.safetensors",
               cwd=folder, code=78)  # fmt: skip
    assert "lr 0.001 -> 1000000.0" in last_error(done)
    error = last_error(run("train.py", *arguments, "--epochs", "2", "--restart", cwd=folder, code=76))
    assert error.startswith(("the loss is ", "the norm of the gradient is "))
    assert "clip" in error or "finite" in error
    assert (folder / "output/train/nan.1/checkpoint-latest.safetensors").read_bytes() == before


def test_a_fifo_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    for arguments in (["--infer_imgs", "@fifo"], ["--infer_imgs", "data/val", "--class_names", "fifo"]):
        error = last_error(run("predict.py", *arguments, *WEIGHTS, cwd=folder, code=65))
        assert "fifo: is not a regular file" in error
    error = last_error(run("eval.py", "data", "--cls_label_path_val", "fifo", *WEIGHTS, cwd=folder, code=65))
    assert "fifo: is not a regular file" in error


def forge(folder: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """Writes a checkpoint whose state was changed, with the right hash."""
    container = read_container(folder / CHECKPOINT)
    change(container.state)
    write_container(folder / "forged.safetensors", container.tensors, container.state)
    return "forged.safetensors"


FORGERIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "names of other classes": lambda s: s["classes"].update(names=["a", "b", "c", "d"]),
    "names that are text": lambda s: s["classes"].update(names="abc"),
    "folders that stand twice": lambda s: s["classes"].update(folders=["a", "a", "b"]),
    "a number of classes that is none": lambda s: s["model"].update(num_classes=3.7),
    "a name that is a list": lambda s: s["model"].update(name=["x"]),
    "no preprocessing": lambda s: s.pop("preprocess"),
    "an unknown interpolation": lambda s: s["preprocess"].update(interpolation="foo"),
    "a crop of nothing": lambda s: s["preprocess"].update(crop_pct=0),
    "a mean that is text": lambda s: s["preprocess"].update(mean="abc"),
    "null": lambda s: s.update(model=None),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forged_checkpoint_is_refused(folder: Path, what: str) -> None:
    """In process, for speed: the check comes before the model is built."""
    from util.restore import restore

    forged = str(folder / forge(folder, FORGERIES[what]))
    options = (WeightsOptions(resume=forged), ModelOptions(), PreprocessOptions())
    with pytest.raises(WeightsError, match="not a usable checkpoint"):
        restore(*options, use_ema=False, names_file=None, registry=models)


def test_an_existing_results_file_survives_a_failure(folder: Path) -> None:
    (folder / "old.jsonl").write_text("old")
    (folder / "nothing.png").write_bytes(b"")
    run("predict.py", "--infer_imgs", "nothing.png", *WEIGHTS, "--output", "old.jsonl", cwd=folder, code=65)
    assert (folder / "old.jsonl").read_text() == "old"


def test_a_killed_run_can_be_continued_at_once(folder: Path) -> None:
    """Data workers must neither hold the run's lock nor outlive it."""
    arguments = ["data", *TINY, "--num_workers", "2", "--epochs", "400", "--experiment", "shot"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=folder,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _wait_for(folder / "output/train/shot/checkpoint-latest.safetensors")
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while _group_lives(process.pid):
        assert time.monotonic() < deadline, "a worker outlived the run"
        time.sleep(0.2)
    error = last_error(run("train.py", *arguments[:-3], "1", "--experiment", "shot", cwd=folder, code=78))
    assert "epochs 400 -> 1" in error, "the lock is free"


def test_a_full_disk_ends_with_74_and_keeps_the_last_checkpoint(folder: Path) -> None:
    """A limit on file size stands for the full disk: 300 kB is less than a checkpoint and more than the logs."""
    arguments = ["data", *TINY, "--experiment", "full"]
    run("train.py", *arguments, "--epochs", "1", cwd=folder)
    checkpoint = folder / "output/train/full/checkpoint-latest.safetensors"
    before = checkpoint.read_bytes()
    limited = (
        f"ulimit -f 300; exec {sys.executable} {ROOT / 'train.py'} {' '.join(arguments)} --epochs 1 --experiment full2"
    )
    done = subprocess.run(["bash", "-c", limited], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 74, done.stderr
    assert ".safetensors: not saved: " in last_error(done)
    assert "Traceback" not in done.stderr
    assert checkpoint.read_bytes() == before
    assert not list((folder / "output/train/full2").glob("*.safetensors"))
    assert not list((folder / "output/train/full2").glob(".tmp*"))


def test_ctrl_c_leaves_no_worker_and_no_traceback(folder: Path) -> None:
    arguments = ["data", *TINY, "--num_workers", "2", "--epochs", "400", "--experiment", "stopped"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    _wait_for(folder / "output/train/stopped/checkpoint-latest.safetensors")
    os.killpg(process.pid, signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in stderr
    deadline = time.monotonic() + 30
    while _group_lives(process.pid):
        assert time.monotonic() < deadline, "a worker outlived the run"
        time.sleep(0.2)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
