"""`train.py --dry_run`: everything once, nothing written, figures that can be relied on."""

import json
from pathlib import Path

import pytest

from tests.scripts.run import TINY, last_error, port, run
from tests.trees import write_tree

WHOLE = ("--update_freq", "2", "--model_ema", "--mixup", "0.8", "--clip_grad", "1", "--epochs", "3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("dry")
    write_tree(place / "data", num_classes=3, train=8, val=4)
    return place


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_dry_run_estimates_and_writes_nothing(folder: Path) -> None:
    before = files(folder)
    done = run("train.py", "data", *TINY, *WHOLE, "--dry_run", cwd=folder)
    assert files(folder) == before
    found = json.loads(done.stdout)
    batches = 24 // 4
    iteration = found["step_seconds"] + found["load_seconds"]  # no workers: one after the other
    evaluation = 3 * (found["eval_seconds"] + found["eval_load_seconds"])
    assert found["epoch_seconds"] == pytest.approx(batches * iteration + evaluation)
    assert found["hours"] == pytest.approx(3 * found["epoch_seconds"] / 3600)
    assert found["images_per_second"] == pytest.approx(4 / iteration)
    assert 100 < found["peak_memory_mb"] < 20_000
    assert "nothing was written" in done.stderr
    run("train.py", "data", *TINY, *WHOLE, "--epochs", "1", "--experiment", "real", cwd=folder)
    size = (folder / "output/train/real/checkpoint-latest.safetensors").stat().st_size
    assert found["checkpoint_mb"] == pytest.approx(size / 1e6, rel=0.1)


def test_more_memory_for_a_larger_batch(folder: Path) -> None:
    sizes = ("4", "24")
    found = [
        json.loads(run("train.py", "data", *TINY, "-b", size, "--input_size", "96", "--dry_run", cwd=folder).stdout)
        for size in sizes
    ]
    assert found[1]["peak_memory_mb"] > found[0]["peak_memory_mb"] + 20


@pytest.mark.slow
def test_more_processes_than_evaluation_images(folder: Path) -> None:
    write_tree(folder / "few", num_classes=1, train=8, val=1)
    done = run("run.sh", "-g", "2", "-p", port(), "--data_dir", "few", *TINY, "-b", "2", "--dry_run", cwd=folder)
    [line] = [line for line in done.stdout.splitlines() if line.startswith('{"peak_memory_mb"')]
    assert json.loads(line)["images_per_second"] > 0


@pytest.mark.parametrize("other", [["--restart"], ["--resume", "some.safetensors"]])
def test_dry_run_is_about_a_new_run(folder: Path, other: list[str]) -> None:
    assert "dry_run" in last_error(run("train.py", "data", *TINY, "--dry_run", *other, cwd=folder, code=2))


def test_a_loss_that_explodes_is_found(folder: Path) -> None:
    done = run("train.py", "data", *TINY, "--dry_run", "--opt", "sgd", "--lr", "1e6", cwd=folder, code=76)
    assert "lower --lr" in last_error(done)


def test_dry_run_finds_a_broken_image(folder: Path) -> None:
    write_tree(folder / "broken", num_classes=1, train=4)
    for path in (folder / "broken/train").rglob("*.JPEG"):
        path.write_bytes(path.read_bytes()[:100])
    done = run("train.py", "broken", *TINY, "--dry_run", cwd=folder, code=65)
    assert "unreadable image broken/train/" in last_error(done)
