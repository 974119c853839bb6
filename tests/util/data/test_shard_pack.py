"""Packing: images' bytes as they are, the same shards each time, all of a split or nothing."""

import errno
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.scripts.run import ROOT
from tests.tars import samples, write_shards
from tests.trees import write_picture, write_tree
from util.data import shard_pack
from util.data.image_list import ImageList
from util.data.shard import main
from util.data.shard_index import key_and_extension, read_index
from util.data.shard_pack import plan_packing
from util.data.shards import find_shards
from util.data.splits import load_split
from util.errors import DataError, MissingInputError, OutputError, SaveError, UsageError

KILOBYTES_20 = "0.0205"  # MB: two records of a tar


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "data", num_classes=2, train=9, val=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_tarfile_reads_what_was_packed(data: Path) -> None:
    out = data.parent / "out"
    main([str(data), "--output", str(out), "--shard_mb", KILOBYTES_20])
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(out.glob("train-*.tar")):
        assert path.stat().st_size <= 20_500
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.mode, member.uname) == (0, 0, 0, 0o644, "")
                key, extension = key_and_extension(member.name) or ("", "")
                found.setdefault(key, {})[extension] = tar.extractfile(member).read()  # type: ignore[union-attr]
    files = sorted((data / "train").rglob("*.JPEG"))
    assert len(found) == len(files) == 18
    for file in files:
        label = {"n01440764": b"0", "n01440765": b"1"}[file.parent.name]
        assert found[f"{file.parent.name}/{file.stem}"] == {"jpg": file.read_bytes(), "cls": label}
    assert (out / "train-classes.json").read_text() == '[\n"n01440764",\n"n01440765"\n]\n'


def test_the_index_written_along_is_the_one_that_the_headers_give(data: Path) -> None:
    out = data.parent / "out"
    main([str(data), "--output", str(out), "--shard_mb", KILOBYTES_20])
    names = ["n01440764", "n01440765"]
    written = read_index(out / "train.shards.safetensors", find_shards(out, "train"), names)
    images = load_split(str(out), "train")
    (out / "train.shards.safetensors").unlink()
    scanned = load_split(str(out), "train")
    assert list(scanned.paths) == list(images.paths) == list(written.paths)
    assert scanned.fingerprint() == images.fingerprint()
    main(["--index", str(out)])
    assert read_index(out / "train.shards.safetensors", find_shards(out, "train"), names).labels.tolist() == (
        images.labels.tolist()
    )


def test_the_same_images_give_the_same_bytes(data: Path) -> None:
    one, two, other = (data.parent / name for name in ("one", "two", "other"))
    main([str(data), "--output", str(one), "--split", "train"])
    for path in data.rglob("*.JPEG"):
        os.utime(path, (0, 0))
    main([str(data), "--output", str(two), "--split", "train"])
    main([str(data), "--output", str(other), "--split", "train", "--seed", "1"])
    assert digest(one / "train-000000.tar") == digest(two / "train-000000.tar")
    assert digest(one / "train-000000.tar") != digest(other / "train-000000.tar")
    assert sorted(load_split(str(one), "train").paths) == sorted(load_split(str(other), "train").paths)


def test_samples_are_shuffled_so_that_a_reader_of_one_shard_sees_all_classes(tmp_path: Path) -> None:
    for i in range(400):
        path = tmp_path / f"train/{'ab'[i // 200]}/{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    packing = plan_packing(load_split(str(tmp_path), "train"), "train", shard_bytes=100 * 2048, seed=0)
    assert sorted(np.concatenate(packing.shards).tolist()) == list(range(400))
    halves = [float((shard >= 200).mean()) for shard in packing.shards[:-1]]
    assert len(halves) >= 4
    assert all(0.3 < half < 0.7 for half in halves)  # four deviations of 95 draws are 0.2


def named(root: Path, *names: str) -> list[str]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    images = ImageList(root, list(names), np.zeros(len(names), np.int64), None)
    packing = plan_packing(images, "train", shard_bytes=1 << 20, seed=0)
    return [key + suffix for key, suffix in zip(packing.keys, packing.suffixes, strict=True)]


def test_keys_are_paths_below_the_split_each_once(tmp_path: Path) -> None:
    assert named(tmp_path, "train/a/1.JPEG", "train/v1.0/x.y.PNG", "other/train/2.webp", "./train//b/3.jpeg") == [
        "a/1.jpg", "v1.0/x_y.png", "other/train/2.webp", "b/3.jpg"
    ]  # fmt: skip
    assert named(tmp_path, "b/1.png", "b/1.jpg", "b/1_2.jpg", "b/1.bmp", "b/1.jpg") == [
        "b/1_4.png", "b/1_2.jpg", "b/1_2_2.jpg", "b/1.bmp", "b/1_3.jpg"
    ]  # fmt: skip


def test_files_that_shards_cannot_name_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        named(tmp_path, "a.gif", "b.jpg", "c\udcff.jpg", "d")
    assert (
        str(caught.value).count("expected a name in UTF-8 that ends in one of .jpg .jpeg .png .bmp .webp; rename") == 3
    )
    assert repr(str(tmp_path / "a.gif")) in str(caught.value)


def test_lists_are_packed_as_folders_are(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_picture(data / "more/Ä.png", seed=77)
    (data / "t.txt").write_text("more/Ä.png 5\nval/n01440764/val 0 1.JPEG 2\n", encoding="utf-8")
    out = data.parent / "out"
    main([str(data), "--output", str(out), "--split", "train", "--cls_label_path_train", "t.txt"])
    images = load_split(str(out), "train")
    assert dict(zip(images.paths, images.labels.tolist(), strict=True)) == {
        "train-000000.tar:more/Ä.png": 5, "train-000000.tar:val/n01440764/val 0 1.jpg": 2
    }  # fmt: skip
    assert images.class_names is None
    assert not (out / "train-classes.json").exists()
    assert f"train on them: python train.py {out} --config CONFIG" in capsys.readouterr().err


def test_classes_of_val_are_numbered_as_those_of_train(tmp_path: Path) -> None:
    for path in ("train/ape/0.jpg", "train/bee/0.jpg", "train/cat/0.jpg", "val/cat/0.jpg"):
        (tmp_path / "data" / path).parent.mkdir(parents=True)
        (tmp_path / "data" / path).write_bytes(b"x")
    main([str(tmp_path / "data"), "--output", str(tmp_path / "out")])
    val = load_split(str(tmp_path / "out"), "val")
    assert (val.labels.tolist(), val.class_names) == ([2], ["ape", "bee", "cat"])


def write_train(out: Path) -> None:
    write_shards(out, samples(1))


@pytest.mark.parametrize("there", [
    write_train, lambda out: (out / "train").mkdir(parents=True), lambda out: (out / "train-classes.json").touch(),
    lambda out: (out / "train.shards.safetensors").touch(),
    lambda out: (out / "train.shards.safetensors").symlink_to("train.shards.safetensors"),
])  # fmt: skip
def test_nothing_is_written_over(there: Callable[[Path], object], data: Path) -> None:
    out = data.parent / "out"
    out.mkdir()
    there(out)
    before = sorted(out.rglob("*"))
    with pytest.raises(OutputError, match="already there; nothing is written over: remove the split train or choose"):
        main([str(data), "--output", str(out)])
    assert sorted(out.rglob("*")) == before  # not even val


def test_another_split_may_be_there(data: Path) -> None:
    out = data.parent / "out"
    main([str(data), "--output", str(out), "--split", "val"])
    before = contents(out)
    main([str(data), "--output", str(out), "--split", "train"])
    assert contents(out).items() >= before.items()
    assert len(load_split(str(out), "train")) == 18


def test_missing_room_is_known_before_anything_is_written(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shard_pack.shutil.disk_usage(data)
    needed = 18 * 4 * 512 + 4 * 4 * 512
    monkeypatch.setattr(shard_pack.shutil, "disk_usage", lambda path: usage._replace(free=needed))
    with pytest.raises(OutputError, match=r"the shards of train need 0\.1 MB, 0\.0 MB are free; make room or choose"):
        main([str(data), "--output", str(data.parent / "out")])
    assert not (data.parent / "out").exists()
    monkeypatch.setattr(shard_pack.shutil, "disk_usage", lambda path: usage._replace(free=200_000))
    main([str(data), "--output", str(data.parent / "out")])  # negative control


def test_planned_sizes_are_those_that_are_written(data: Path) -> None:
    for name in ("é" * 30 + ".png", "x" * 120 + ".png"):  # names that need extended headers
        write_picture(data / "train/n01440764" / name, seed=1)
    images = load_split(str(data), "train")
    packing = plan_packing(images, "train", shard_bytes=1 << 30, seed=0)
    main([str(data), "--output", str(data.parent / "out"), "--split", "train"])
    written = (data.parent / "out/train-000000.tar").stat().st_size
    assert written <= packing.bytes < written + 3 * 10_240


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("after", [0, 1, 30])
def test_a_full_disk_leaves_nothing(after: int, code: int, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = data.parent / "out"
    main([str(data), "--output", str(out), "--split", "val"])
    before = contents(out)
    calls = 0
    add = shard_pack._add

    def fill(tar: tarfile.TarFile, name: str, content: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(code, os.strerror(code))
        add(tar, name, content)

    monkeypatch.setattr(shard_pack, "_add", fill)
    with pytest.raises(SaveError, match=r"the split train was not written: .*; make room, and run again"):
        main([str(data), "--output", str(out), "--split", "train", "--shard_mb", KILOBYTES_20])
    assert contents(out) == before


@pytest.mark.parametrize("where", ["_add", "_sync", "scan_shards", "write_index"])
def test_an_interruption_anywhere_leaves_nothing_and_can_be_repeated(
    where: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    out = data.parent / "out"
    monkeypatch.setattr(shard_pack, where, interrupt)
    with pytest.raises(KeyboardInterrupt):
        main([str(data), "--output", str(out)])
    assert list(out.iterdir()) == []
    monkeypatch.undo()
    main([str(data), "--output", str(out)])
    assert len(load_split(str(out), "val")) == 4


def leave(out: Path, process: int, host: str = "") -> Path:
    """Makes what a process that packs has at work."""
    path = out / f".tmp-train-{host or socket.gethostname()}-{process}"
    path.mkdir(parents=True)
    (path / "0.tar").write_bytes(b"x")
    return path


def test_what_a_killed_process_left_is_removed_and_a_living_ones_is_not(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = data.parent / "out"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    unburied = subprocess.Popen([sys.executable, "-c", ""])  # a zombie until it is waited for
    os.waitid(os.P_PID, unburied.pid, os.WEXITED | os.WNOWAIT)
    removed = [leave(out, process) for process in (dead.pid, unburied.pid, os.getpid())]
    living, elsewhere = leave(out, os.getppid()), leave(out, dead.pid, "elsewhere")
    (out / ".tmp-folder").mkdir()
    main([str(data), "--output", str(out)])
    unburied.wait()
    assert sorted(out.glob(".tmp-*")) == sorted([living, elsewhere, out / ".tmp-folder"])
    said = capsys.readouterr().err
    for path in removed:
        process = path.name.rpartition("-")[2]
        assert f"{path}: unfinished shards of process {process}, which was killed: removed\n" in said
    assert f"{living}: unfinished shards of process {os.getppid()}, which runs; remove it if nobody packs there" in said
    assert f"{elsewhere}: unfinished shards of another machine; remove it if nobody packs there any more\n" in said
    assert said.count("unfinished") == 5


def test_leftovers_are_removed_before_the_room_is_measured(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = leave(data.parent / "out", os.getpid())
    usage = SimpleNamespace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage if left.exists() else SimpleNamespace(free=10**9))
    main([str(data), "--output", str(data.parent / "out")])
    assert len(load_split(str(data.parent / "out"), "train")) == 18


def test_a_packing_that_is_killed_leaves_what_the_next_one_removes(data: Path) -> None:
    out = data.parent / "out"
    driver = (
        "import os\nfrom util.data import shard_pack, shard\n"
        "shard_pack._sync = lambda folder: os.kill(os.getpid(), 9)\nshard.main()\n"
    )
    command = [sys.executable, "-c", driver, str(data), "--output", str(out)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == -9
    assert len(list(out.glob(".tmp-train-*"))) == 1
    for shard in out.glob("*.tar"):  # what had been moved when it was killed: nothing is written over
        shard.unlink()
    (out / "train-classes.json").unlink()
    main([str(data), "--output", str(out)])
    assert list(out.glob(".tmp-*")) == []


def test_an_image_that_cannot_be_read_stops_the_packing(data: Path) -> None:
    fifo = data / "train/n01440764/fifo.jpg"
    os.mkfifo(fifo)
    with pytest.raises(DataError, match=re.escape(f"{fifo}: is not a regular file")):
        main([str(data), "--output", str(data.parent / "out")])
    assert list((data.parent / "out").iterdir()) == []
    fifo.unlink()
    fifo.symlink_to("nowhere")
    with pytest.raises(DataError, match=re.escape(f"{fifo}: No such file or directory")):
        main([str(data), "--output", str(data.parent / "out")])


@pytest.mark.parametrize(("arguments", "expected"), [
    (["."], "give either --output DIR, to pack a data set, or --index"),
    ([".", "--index", "--output", "x"], "give either --output DIR"),
    ([".", "--output", "x", "--shard_mb", "0"], "--shard_mb must be above 0 and below 1e9; got 0.0"),
])  # fmt: skip
def test_wrong_options_are_refused(arguments: list[str], expected: str) -> None:
    with pytest.raises(UsageError, match=re.escape(expected)):
        main(arguments)


def test_an_index_needs_shards_and_a_folder_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingInputError, match=r"no shards; expected <split>-000000\.tar and so on"):
        main(["--index", str(tmp_path)])
    with pytest.raises(MissingInputError, match="nowhere: no such folder"):
        main(["--index", str(tmp_path / "nowhere")])
    write_shards(tmp_path, samples(2))
    with pytest.raises(MissingInputError, match=r"no shards; expected val-000000\.tar"):
        main(["--index", str(tmp_path), "--split", "val"])
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match="cannot be written; without it, training reads all headers at each start"):
        main(["--index", str(tmp_path)])


def test_shards_are_not_packed_again(tmp_path: Path) -> None:
    write_shards(tmp_path, samples(2))
    with pytest.raises(UsageError, match="expected class folders or a list file; train is in archives already"):
        main([str(tmp_path), "--output", str(tmp_path / "out"), "--split", "train"])


def test_ctrl_c_ends_the_command_at_once_with_nothing_left(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for i in range(2000):
        path = data / f"train/c/{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
    driver = (
        "import time\nfrom util.data import shard_pack\nadd = shard_pack._add\n"
        "def slow(*given):\n    time.sleep(0.01)\n    print('.', flush=True)\n    add(*given)\n"
        "shard_pack._add = slow\n"
        "from util.data.shard import main\nfrom util.errors import run_script\nrun_script(main)\n"
    )
    command = [sys.executable, "-c", driver, str(data), "--output", str(tmp_path / "out"), "--split", "train"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(2)
    _, said = process.communicate(timeout=10)
    assert (process.returncode, said.strip().splitlines()[-1]) == (130, "error: interrupted")
    assert list((tmp_path / "out").iterdir()) == []
