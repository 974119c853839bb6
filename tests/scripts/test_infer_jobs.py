"""infer.py on many images: stopped and gone on with, in one process and shared by two, each image answered once."""

import json
import re
import signal
from pathlib import Path

import pytest

from tests.scripts.background import Background, wait_until
from tests.scripts.exports import export_random
from tests.scripts.run import ROOT, last_error, port, run
from tests.trees import write_picture
from util.processes import send

NUM_IMAGES = 240


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export in `model`, pictures in `images`, and what one start makes of them in `whole.jsonl`."""
    folder = tmp_path_factory.mktemp("jobs")
    export_random(folder)
    write_picture(
        folder / "images/0.jpg", seed=0, size=(1000, 750)
    )  # large: a job takes seconds, and is stopped within
    for i in range(1, NUM_IMAGES):
        (folder / f"images/{i}.jpg").hardlink_to(folder / "images/0.jpg")
    for name in ("100", "200"):
        (folder / f"images/{name}.jpg").unlink()
        (folder / f"images/{name}.jpg").write_bytes(b"")
    done = run("infer.py", *JOB, "--output", "whole.jsonl", cwd=folder, code=65)
    assert last_error(done).startswith(f"2 of {NUM_IMAGES} images could not be read; all are in whole.jsonl.bad.tsv")
    assert "images/100.jpg: is empty" in done.stderr
    return folder


# one picture a batch: rounding may depend on how many there are
JOB = ("--model_dir", "model", "--input_file", "images", "--batch_size", "1", "--engine", "paddle", "--device", "cpu")


def names(path: Path) -> list[str]:
    """The images of the rows; each row must be whole."""
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line)["file_name"] for line in text.splitlines()]


def check_same(place: Path, output: str) -> None:
    assert (place / output).read_bytes() == (place / "whole.jsonl").read_bytes()
    assert (place / f"{output}.bad.tsv").read_bytes() == (place / "whole.jsonl.bad.tsv").read_bytes()
    found = names(place / output)
    assert len(found) == len(set(found)) == NUM_IMAGES - 2


def has_rows(*paths: Path) -> bool:
    return all(path.exists() and path.read_bytes().count(b"\n") > 5 for path in paths)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_stopped_job_goes_on_with_each_image_once(place: Path, number: signal.Signals, code: int) -> None:
    output = f"{number.name}.jsonl"
    with Background(*JOB, "--output", output, cwd=place, script=ROOT / "infer.py") as job:
        wait_until(lambda: has_rows(place / output) or job.process.poll() is not None, "answered")
        send(job.pid, number)
        assert job.code() == code
        if code > 0:
            said = re.search(rf"stopped by {number.name}: (\d+) of {NUM_IMAGES} images are done in", job.stderr)
            assert said is not None, job.stderr
            bad = place / f"{output}.bad.tsv"
            num_bad = len(bad.read_text().splitlines()) if bad.exists() else 0
            assert len(names(place / output)) + num_bad == int(said[1])
    before = (place / output).read_bytes()
    assert 5 < len(before.splitlines()) < NUM_IMAGES - 2
    run("infer.py", *JOB, "--output", output, "--continue", cwd=place, code=65)
    assert (place / output).read_bytes().startswith(before[: before.rindex(b"\n")])
    check_same(place, output)


def test_two_processes_share_a_job_also_after_a_kill(place: Path) -> None:
    shared = ("-g", "2", "-p", port(), "-t", "infer", *JOB, "--output", "shared.jsonl")
    with Background(*shared, cwd=place) as job:
        parts = [place / f"shared.jsonl.part-{rank}-of-2" for rank in (0, 1)]
        wait_until(lambda: has_rows(*parts) or job.process.poll() is not None, "answered by both")
        send(job.pid, signal.SIGKILL)
        job.process.wait()
        job.wait_gone(15)
    assert not (place / "shared.jsonl").exists()
    left = [path.read_bytes() for path in parts]
    done = run("run.sh", *shared, "--continue", cwd=place, code=65)
    assert last_error(done).startswith(f"2 of {NUM_IMAGES} images could not be read")
    most = NUM_IMAGES // 2 - 1  # each part has one of the two that cannot be read
    assert any(len(part.splitlines()) < most for part in left), "it was killed before it was done"
    check_same(place, "shared.jsonl")
    assert list(place.glob("shared.jsonl.part*")) == []


def test_a_failed_process_fails_the_job_with_its_reason(place: Path) -> None:
    (place / "full.jsonl.part-1-of-2").symlink_to("/dev/full")
    done = run("run.sh", "-g", "2", "-p", port(), "-t", "infer", *JOB, "--output", "full.jsonl", cwd=place, code=74)
    assert "full.jsonl: not written after 0 results: No space left on device" in done.stderr
    assert not (place / "full.jsonl").exists()


def test_what_cannot_be_shared_is_refused(place: Path) -> None:
    done = run("run.sh", "-g", "2", "-p", port(), "-t", "infer", *JOB, cwd=place, code=2)
    assert "2 processes cannot share standard output: name a file with --output" in done.stderr
    done = run("run.sh", "--nodes", "2", "-t", "infer", *JOB, cwd=place, code=2)
    assert "-t infer runs on one machine" in done.stderr
    done = run("infer.py", *JOB, "--continue", cwd=place, code=2)
    assert last_error(done) == "--continue needs --output, the file to go on with"


def test_one_process_of_run_sh_prints_as_infer_does(place: Path) -> None:
    few = ("--model_dir", "model", "--input_file", "images/0.jpg", "--engine", "paddle", "--device", "cpu")
    alone = run("infer.py", *few, cwd=place)
    assert run("run.sh", "-t", "infer", *few, cwd=place).stdout == alone.stdout
