"""Several processes, joined by gloo."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.scripts.background import Background, wait_until
from tests.scripts.run import ROOT, TINY, port, run
from tests.trees import write_tree
from util.processes import children
from util.weights.container import read_container


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten evaluation images, which neither 2 x 4 nor 3 x 4 divides, and a trained checkpoint."""
    place = tmp_path_factory.mktemp("processes")
    write_tree(place / "data", num_classes=2, train=8, val=5, flat_val=True)
    run("train.py", "data", *TINY, "--epochs", "1", "--experiment", "one", cwd=place)
    return place


@pytest.mark.slow  # test_eval.py has the same for one and three
def test_counts_are_equal_for_one_two_and_three_processes(folder: Path) -> None:
    found = []
    for processes in ("1", "2", "3"):
        done = run(
            "run.sh", "-g", processes, "-t", "test", "-p", port(), "--data_dir", "data", "--batch_size", "4",
            "--num_workers", "0", "--resume", "output/train/one/checkpoint-latest.safetensors", cwd=folder,
        )  # fmt: skip
        [line] = [line for line in done.stdout.splitlines() if line.startswith('{"images"')]
        found.append(json.loads(line))
    assert [f["images"] for f in found] == [10, 10, 10]
    assert len({(f["top1"], f["top5"]) for f in found}) == 1
    assert max(f["loss"] for f in found) == pytest.approx(min(f["loss"] for f in found), abs=1e-6)


def test_two_processes_train_and_rank_0_alone_writes(folder: Path) -> None:
    run(
        "run.sh", "-g", "2", "-t", "train", "-p", port(), "--cfg", ROOT / "configs/train/cvt/cvt_13_224x224.yaml",
        "--data_dir", "data", *TINY, "--input_size", "32", "--crop_pct", "1", "--epochs", "2", "--update_freq", "2",
        "--model_ema", "--experiment", "two", "--lr", "0.1", cwd=folder, TMPDIR=str(folder),
    )  # fmt: skip
    run_folder = folder / "output/train/two"
    log = (run_folder / "train.log").read_text()
    assert "effective batch 16 = 4 images x 2 processes x 2 micro-batches; 2 iterations and 1 updates" in log
    assert log.count("Epoch: [1]  [1/2]") == 1
    assert [json.loads(line)["epoch"] for line in (run_folder / "log.txt").read_text().splitlines()] == [0, 1]
    assert len(list(run_folder.glob("checkpoint-latest*"))) == 1
    done = run("eval.py", "data", "-j", "0", "--resume", run_folder / "checkpoint-latest.safetensors", cwd=folder)
    last = json.loads((run_folder / "log.txt").read_text().splitlines()[-1])
    assert json.loads(done.stdout)["top1"] == pytest.approx(last["test_acc1"])
    assert json.loads(done.stdout)["loss"] == pytest.approx(last["test_loss"], abs=1e-5)


def run_ranks(folder: Path, processes: int, *arguments: str) -> dict[str, np.ndarray]:
    """Returns what tests/scripts/ranks.py stores."""
    script, output = ROOT / "tests/scripts/ranks.py", f"ranks_{arguments[0]}_{processes}.npz"
    command: list[str | Path] = [script, arguments[0], output, *arguments[1:]]
    if processes > 1:
        command = [ROOT / "tests/scripts/launch.py", "--nproc_per_node", str(processes), *command]
    run(*command, cwd=folder, PYTHONPATH=str(ROOT))
    with np.load(folder / output) as stored:
        return dict(stored)


def test_ranks_equal_one_process_with_the_whole_batch_and_reduce_at_the_last_micro_batch_only(folder: Path) -> None:
    one = run_ranks(folder, 1, "updates")
    for processes in (2, 3):
        many = run_ranks(folder, processes, "updates")
        inner, last = many["head_gradient_0"], many["head_gradient_1"]
        assert np.abs(inner[0] - inner[1]).max() > 1e-4, "the inner micro-batch's gradient is each rank's own"
        for rank in range(1, processes):
            np.testing.assert_array_equal(last[0], last[rank])
        for name in one:
            if not name.startswith("head_gradient"):
                np.testing.assert_allclose(one[name], many[name], atol=1e-6, err_msg=name)


def test_stochastic_depth_differs_between_ranks_initial_weights_do_not_and_the_loss_is_over_all(folder: Path) -> None:
    found = run_ranks(folder, 3, "epoch", "data")
    assert len(set(found["initial"].tolist())) == 1
    kept = found["kept"]  # (rank, call, sample)
    assert 0.3 < kept.mean() < 0.9
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (kept[a] != kept[b]).any()
    assert np.ptp(found["losses"], axis=0).min() > 0, "each rank has its own images"
    assert found["train_loss"] == pytest.approx(found["losses"].mean(), abs=1e-6)


@pytest.mark.slow  # test_kills.py has the short form
def test_two_processes_resume_exactly(folder: Path) -> None:
    arguments = (
        "-g",
        "2",
        "-p",
        port(),
        "--data_dir",
        "data",
        *TINY,
        "--model_ema",
        "--drop_path_rate",
        "0.2",
        "--mixup",
        "0.8",
    )
    names = ("straight", "resumed")
    run("run.sh", *arguments, "--epochs", "2", "--experiment", "straight", "--checkpoint_interval", "1", cwd=folder)
    straight, resumed = (folder / "output/train" / name for name in names)
    resumed.mkdir()
    shutil.copy(straight / "checkpoint-000000002.safetensors", resumed / "checkpoint-latest.safetensors")
    run("run.sh", *arguments, "--epochs", "2", "--experiment", "resumed", cwd=folder)
    a, b = (read_container(place / "checkpoint-latest.safetensors") for place in (straight, resumed))
    assert a.state["progress"]["update"] == b.state["progress"]["update"] == 4
    for tensor in a.tensors:
        np.testing.assert_array_equal(a.tensors[tensor], b.tensors[tensor], err_msg=tensor)


def test_the_launcher_of_the_seed_without_a_gpu(folder: Path) -> None:
    """`--gpus=0,1` with CUDA_VISIBLE_DEVICES set starts two ranks on a machine without a GPU; they use gloo."""
    done = run(
        ROOT / "tests/scripts/launch.py", "--gpus=0,1", ROOT / "train.py", "data", *TINY, "--epochs", "1",
        "--experiment", "gpus", cwd=folder, CUDA_VISIBLE_DEVICES="0,1",
    )  # fmt: skip
    assert "the launcher chose GPUs, but there are none: using the CPU, processes joined by gloo" in done.stdout
    assert (folder / "output/train/gpus/checkpoint-latest.safetensors").exists()


def test_an_error_passes_through_the_launcher(folder: Path) -> None:
    done = run("run.sh", "-g", "2", "-p", port(), "--data_dir", "nowhere", *TINY, cwd=folder, code=66)
    assert "error: nowhere: no such data folder" in done.stdout + done.stderr


def test_the_reason_passes_through_the_launcher_whichever_rank_it_is(folder: Path) -> None:
    write_tree(folder / "rotten", num_classes=2)
    for path in sorted((folder / "rotten/train").rglob("*.JPEG"))[:3]:
        path.write_bytes(b"")
    arguments = ("--data_dir", "rotten", *TINY, "--epochs", "1", "--experiment", "rotten")
    done = run("run.sh", "-g", "2", "-p", port(), *arguments, cwd=folder, code=65)
    assert "--bad_images 0.001 of 16 allows 0: rotten/train/" in done.stderr


ENDLESS = ("--data_dir", "data", *TINY, "--num_workers", "2", "--epochs", "4000")


def wait_for_checkpoint(folder: Path, name: str, *jobs: Background) -> None:
    file = folder / "output/train" / name / "checkpoint-latest.safetensors"
    wait_until(lambda: file.exists() or any(job.process.poll() is not None for job in jobs), "trained", 120)
    for job in jobs:
        assert job.process.poll() is None, job.stderr
        job.look()


def updates_of(folder: Path, name: str) -> int:
    """Returns how many updates the newest checkpoint holds; it verifies."""
    state = read_container(folder / "output/train" / name / "checkpoint-latest.safetensors").state
    return state["progress"]["update"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_stopping_run_sh_stops_every_process(folder: Path, number: signal.Signals, code: int) -> None:
    name = f"stopped{code}"
    with Background("-g", "2", "-p", port(), *ENDLESS, "--experiment", name, cwd=folder) as job:
        wait_for_checkpoint(folder, name, job)
        if number == signal.SIGINT:
            os.killpg(job.pid, number)  # as a terminal does
        else:
            job.process.terminate()  # as a scheduler does, to run.sh alone
        assert job.code(20) == code
    assert updates_of(folder, name) > 0


@pytest.mark.slow  # test_kills.py has the short form
@pytest.mark.parametrize(
    "victim",
    ["rank 0", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rank 1", "launcher", "run.sh"))],
)
def test_after_a_kill_every_process_is_gone_and_the_run_goes_on(folder: Path, victim: str) -> None:
    """Data workers, too. The same command continues from what was saved."""
    name = f"killed-{victim[-1]}"
    command = ("-g", "2", "-p", port(), *ENDLESS, "--experiment", name)
    with Background(*command, cwd=folder) as job:
        wait_for_checkpoint(folder, name, job)
        ranks = sorted(children()[job.launcher()])  # in the order of their start
        assert len(ranks) == 2
        pid = {"rank 0": ranks[0], "rank 1": ranks[1], "launcher": job.launcher(), "run.sh": job.pid}[victim]
        os.kill(pid, signal.SIGKILL)
        job.wait_gone(15)
        assert job.process.wait(1) == (-signal.SIGKILL if victim == "run.sh" else 75)
        if victim.startswith("rank"):
            assert f"error: process {victim[-1]} was killed by signal 9 (out of memory?)" in job.stderr
    before = updates_of(folder, name)
    with Background(*command, cwd=folder) as job:
        wait_until(lambda: f"update {before}" in job.stdout, "continued", 60)
        job.process.terminate()
        assert job.code(20) == 143
    assert updates_of(folder, name) >= before


@pytest.mark.slow
def test_a_killed_rank_is_tried_again_without_help(folder: Path) -> None:
    command = ("-g", "2", "-p", port(), "--tries", "2", "--pause", "0.5", *ENDLESS, "--experiment", "again")
    with Background(*command, cwd=folder) as job:
        wait_for_checkpoint(folder, "again", job)
        os.kill(max(children()[job.launcher()]), signal.SIGKILL)
        wait_until(lambda: job.stdout.count("found epoch") == 1, "tried again", 60)
        assert "attempt 2 of 2 in 0.5 s: process 1 was killed by signal 9 (out of memory?)" in job.stderr
        job.process.terminate()
        assert job.code(20) == 143


@pytest.mark.slow
def test_when_one_of_two_machines_dies_the_other_ends_and_both_continue_together(folder: Path) -> None:
    """Two launchers on one machine are two machines to Paddle."""
    where = ("--nodes", "2", "--master", "127.0.0.1", "-g", "1", "-p", port(), "--tries", "2", "--pause", "1")
    for name in ("node0", "node1"):
        (folder / name).mkdir()
    endless = (*ENDLESS[2:], "--data_dir", str(folder / "data"), "--output", str(folder / "output/train"))

    def machine(rank: int) -> Background:
        command = (*where, "--rank", str(rank), *endless, "--experiment", "nodes")
        return Background(*command, cwd=folder / f"node{rank}")

    with machine(0) as first:
        with machine(1) as second:
            wait_for_checkpoint(folder, "nodes", first, second)
            dead = second.look()
        assert len(dead) >= 5, "run.sh, launcher, one process and its data workers"
        wait_until(lambda: "attempt 2 of 2" in first.stderr, "noticed", 15)
        with machine(1) as second:  # the machine is back: the same command
            wait_until(lambda: "Epoch: [" in first.stdout.partition("found epoch")[2], "together again", 60)
            first.look()
            second.look()
            second.process.terminate()  # to one of both: all save and stop
            assert second.code(30) == 143
            assert first.code(30) == 143, first.stdout[-2000:] + first.stderr
    assert updates_of(folder, "nodes") > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-t", "aml"], "unknown job type aml: -t takes train, test or infer"),
        (["-g", "two"], "--gpus must be a positive number, got two"),
        (["-g"], "-g needs a value"),
    ],
)
def test_run_sh_refuses(folder: Path, arguments: list[str], message: str) -> None:
    assert f"error: {message}" in run("run.sh", *arguments, cwd=folder, code=2).stderr


def test_run_sh_help(folder: Path) -> None:
    text = run("run.sh", "--help", cwd=folder).stdout
    assert re.search(r"-g, --gpus N", text)
    assert "set -euo" not in text
