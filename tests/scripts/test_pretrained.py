"""From coloured weights and a CIFAR archive to a grey model of another size, and what every script makes of it."""

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from models import create_model
from tests.cifar_files import NAMES_100, pack, write_cifar
from tests.reference import tensor
from tests.scripts.run import TINY, last_error, run
from tests.trees import write_picture
from util.weights.container import read_container

CHECKPOINT = "output/train/cvt_nano_32x32/checkpoint-latest.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory: RGB weights for 32 x 32, CIFAR-100, a grey run on 24 of its images at 40 x 40, pictures."""
    folder = tmp_path_factory.mktemp("pretrained")
    own = create_model("cvt_nano_32x32", num_classes=5).state_dict()
    weights = {name: tensor(name.replace("_variance", "running_var"), tuple(p.shape)) for name, p in own.items()}
    save_file(weights, folder / "rgb.safetensors")
    write_cifar(folder, "cifar-100-python", count=30)
    pack(folder, "cifar-100-python", folder / "cifar-100-python.tar.gz")
    for i in range(3):
        write_picture(folder / "pictures" / f"{i}.png", seed=i, size=(60, 44))
    done = run(
        "train.py", "cifar-100-python.tar.gz", *TINY, "--epochs", "1", "--pretrained", "rgb.safetensors",
        "--input_size", "1", "40", "40", "--num_samples", "24", "--num_workers", "1", "--no_shared_memory", cwd=folder,
    )  # fmt: skip
    (folder / "train.stderr").write_text(done.stderr, encoding="utf-8")
    return folder


def test_log_says_what_was_not_taken_as_it_is(trained: Path) -> None:
    log = (trained / "train.stderr").read_text(encoding="utf-8")
    assert (
        "weights from rgb.safetensors; a new head: head.weight, head.bias had another shape; for another number of "
        "channels: stage0.patch_embed.proj.weight"
    ) in log
    assert "24 training and 31 evaluation images, 6 classes" in log


def test_checkpoint_remembers_channels_size_and_classes(trained: Path) -> None:
    container = read_container(trained / CHECKPOINT)
    assert container.tensors["model/stage0.patch_embed.proj.weight"].shape[1] == 1
    preprocess = container.state["preprocess"]
    assert (preprocess["input_size"], preprocess["mean"], preprocess["std"]) == ([1, 40, 40], [0.449], [0.226])
    assert container.state["classes"] == {"folders": NAMES_100, "names": NAMES_100}


def test_evaluation_on_the_archive_is_that_of_training(trained: Path) -> None:
    done = run("eval.py", "cifar-100-python", "--resume", CHECKPOINT, "--num_workers", "0", cwd=trained)
    last = json.loads((trained / CHECKPOINT).with_name("log.txt").read_text().splitlines()[-1])
    found = json.loads(done.stdout)
    assert (found["images"], found["top1"]) == (31, pytest.approx(last["test_acc1"]))
    assert found["loss"] == pytest.approx(last["test_loss"], abs=1e-5)


def _predictions(*command: str, folder: Path) -> list[dict[str, Any]]:
    return ast.literal_eval(run(*command, cwd=folder).stdout)


@pytest.mark.slow
def test_predict_export_and_infer_agree_on_a_grey_model(trained: Path) -> None:
    run("export_model.py", "--resume", CHECKPOINT, "--output", "exported", "--dynamic_size", cwd=trained)
    manifest = json.loads((trained / "exported" / "export.json").read_text(encoding="utf-8"))
    assert manifest["input_shape"] == [None, 1, None, None]
    size = ("--input_size", "48")  # keeps the channel
    predicted = _predictions("predict.py", "--infer_imgs", "pictures", "--resume", CHECKPOINT, *size, folder=trained)
    inferred = _predictions("infer.py", "--input_file", "pictures", "--model_dir", "exported", *size, folder=trained)
    assert len(predicted) == len(inferred) == 3
    for p, i in zip(predicted, inferred, strict=True):
        assert (p["class_ids"], p["label_names"]) == (i["class_ids"], i["label_names"])
        np.testing.assert_allclose(p["scores"], i["scores"], atol=1e-5)
    assert len({p["scores"][0] for p in predicted}) == 3


def test_a_grey_model_does_not_take_colour(trained: Path) -> None:
    colour = ("--input_size", "3", "40", "40")
    done = run("predict.py", "--infer_imgs", "pictures", "--resume", CHECKPOINT, *colour, cwd=trained, code=78)
    assert "is for images of 1 x height x width, not 3 x height x width; leave the channels out" in last_error(done)
    mean = ("--mean", "0.5", "0.5", "0.5")
    done = run("predict.py", "--infer_imgs", "pictures", "--resume", CHECKPOINT, *mean, cwd=trained, code=2)
    assert "mean takes one number a channel, 1 for these images; got 3" in last_error(done)


def test_an_archive_that_wants_to_run_code_ends_with_77(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    done = run("train.py", "cifar-10-batches-py", *TINY, cwd=tmp_path, code=77)
    assert "cifar-10-batches-py/data_batch_2 asks for 'os.system'" in last_error(done)
    assert not (tmp_path / "canary").exists()
