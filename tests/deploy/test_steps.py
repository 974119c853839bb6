"""The image's steps in a folder: what comes of them serves, as another user, without writing, and ends when told to."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from deploy.dockerfile import Instruction, read_dockerfile
from deploy.steps import Image, build, choose_user, read_only, started
from tests.deploy.environments import ROOT
from tests.scripts.run import last_error
from tests.serving.conftest import NAMES
from util.errors import DataError, UsageError

CHELSEA = (ROOT / "demo" / "chelsea.jpg").read_bytes()


def steps(device: str = "cpu") -> list[Instruction]:
    return read_dockerfile((ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")).chain({"DEVICE": device})[1]


def run_but_pip(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
    """What pip would install is in the environment already."""
    if not command[-1].startswith("pip install "):
        subprocess.run(command, cwd=folder, env=environment, check=True)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are for one alone."""
    with tempfile.TemporaryDirectory(prefix="steps.") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def copy_for_all(folder: Path, target: Path) -> Path:
    """Copies an export's files, so that every user can read them."""
    target.mkdir(mode=0o755)
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
        (target / path.name).chmod(0o644)
    return target


@pytest.fixture
def image(paddle_free_server: Path, exported: Path, place: Path) -> Image:
    """The image, and beside it the environment and the export in `model`, where every user can reach them."""
    shutil.copytree(paddle_free_server.parents[1], place / "base", symlinks=True)
    (place / "base").chmod(0o755)
    copy_for_all(exported, place / "model")
    environment = {"PATH": f"{place / 'base' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    root = place / "root"
    root.mkdir()
    return build(steps(), context=ROOT, root=root, environment=environment, run=run_but_pip)


def test_the_server_runs_from_what_is_copied(image: Image, place: Path) -> None:
    assert (image.workdir, image.user, image.port, image.stop_signal.name) == ("/app", 10001, "8000", "SIGTERM")
    assert image.environment["HOME"] == "/tmp"
    assert (image.folder / "util/__pycache__").is_dir()  # compiled by a step, as the server cannot
    with read_only(place) as written:
        who = choose_user(image)
        with started(image, ("--model_dir", str(place / "model"), "--cpu_threads", "1")) as container:
            owner = Path(f"/proc/{container.process.pid}").stat().st_uid
            assert owner == (os.geteuid() if image.user is None else 10001), who
            container.wait_healthy()
            prediction = container.classify(CHELSEA)
            assert container.stop() == 0
            assert not container.is_healthy()
        assert written() == []
    assert set(map(str, prediction["label_names"])) <= set(NAMES)
    assert len(prediction["class_ids"]) == 5


def test_a_server_that_does_not_start_is_told(image: Image, place: Path) -> None:
    choose_user(image)
    with started(image, ("--model_dir", str(place / "nothing"))) as container, pytest.raises(DataError) as error:
        container.wait_healthy()
    assert str(error.value) == "the server ended with 66"


def test_what_is_written_is_noticed(place: Path) -> None:
    for name in ("changed", "gone", "same"):
        (place / name).write_text("before")
    with read_only(place) as written:
        assert not (place / "same").stat().st_mode & 0o222
        assert written() == []
        for path in (place, place / "changed"):
            path.chmod(0o755)
        (place / "new").write_text("")
        (place / "gone").unlink()
        os.utime(place / "changed")
        assert written() == [".", "changed", "gone", "new"]
        (place / "gone").write_text("")
    assert (place / "same").stat().st_mode & stat.S_IWUSR


def test_files_go_where_an_image_has_them(tmp_path: Path) -> None:
    context, root = tmp_path / "context", tmp_path / "root"
    (context / "d" / "e").mkdir(parents=True)
    for name in ("a", "b", "d/x", "d/e/y"):
        (context / name).write_text(name)
    (context / ".dockerignore").write_text("")
    text = (
        "FROM i:1\nWORKDIR /w\nCOPY a b ./\nCOPY a c\nWORKDIR v\nCOPY d to\n"
        "ENV A=1 B=2$A\nENV B=${A}$B$C\nRUN echo $B\nUSER 7:8\n"
    )
    ran: list[str] = []

    def run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        ran.append(f"{' '.join(command)} in {folder.relative_to(root)} with {environment['B']}")

    image = build(read_dockerfile(text).chain({})[1], context=context, root=root, environment={"B": "old"}, run=run)
    found = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}
    assert found == {"w/a": "a", "w/b": "b", "w/c": "a", "w/v/to/x": "d/x", "w/v/to/e/y": "d/e/y"}
    assert ran == ["/bin/sh -c echo 12 in w/v with 12"]
    assert (image.user, image.workdir) == (7, "/w/v")


def test_steps_that_would_change_this_machine_are_refused(tmp_path: Path) -> None:
    def never(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        raise AssertionError(command)

    with pytest.raises(UsageError, match=r"line 1\d: RUN apt-get update .*: would change this machine"):
        build(steps("gpu"), context=ROOT, root=tmp_path, environment={}, run=never)
    text = "FROM i:1\nRUN rm -rf /var/x\n"
    with pytest.raises(UsageError, match="line 2: RUN rm -rf /var/x: would change"):
        build(read_dockerfile(text).chain({})[1], context=ROOT, root=tmp_path, environment={}, run=never)


def try_steps(*arguments: str | Path, code: int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.try_steps", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=900,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


def test_a_folder_with_something_in_it_stays_as_it_is(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    done = try_steps("--model_dir", exported, "--folder", tmp_path, code=2)
    assert last_error(done) == f"{tmp_path}: is not an empty folder"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert last_error(try_steps("--model_dir", tmp_path / "x", code=66)) == f"{tmp_path}/x: no such export"


def pip_reaches_an_index(folder: Path) -> bool:
    command = ["pip", "download", "--no-deps", "--quiet", "--timeout", "5", "--retries", "0", "-d", str(folder), "idna"]
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_all_steps_with_pip(exported: Path, tmp_path: Path, place: Path) -> None:
    if not pip_reaches_an_index(tmp_path):
        pytest.skip("pip reaches no index, and this installs what the image has")
    done = try_steps("--model_dir", copy_for_all(exported, place / "model"), code=0)
    assert re.fullmatch(
        rf"the steps work, as .*: chelsea\.jpg is ({'|'.join(NAMES)}); nothing was written; ended with 0\n", done.stdout
    )
    assert "RUN pip install --no-cache-dir -r deploy/requirements-serve.txt" in done.stderr
