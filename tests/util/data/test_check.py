"""python -m util.data.check: every file read once, an index whole or not at all, rot found, no process left behind."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cifar_files import pack, write_cifar
from tests.trees import write_picture, write_tree
from util.data.check import main
from util.data.index import index_path, read_index
from util.data.inspection import FileFact, inspect_file
from util.data.splits import load_split
from util.errors import DataError, MissingInputError, OutputError, ResumableError, SaveError, UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "data", num_classes=2, train=3, val=2)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_every_split_gets_an_index_with_what_its_files_are(root: Path, workers: str) -> None:
    before = snapshot(root)
    main([str(root), "--num_workers", workers])
    assert {p.name for p in root.iterdir()} == {"train", "val", "train.index.safetensors", "val.index.safetensors"}
    assert before.items() <= snapshot(root).items()
    for split, count in (("train", 6), ("val", 4)):
        index = read_index(index_path(root, split), root)
        assert len(index.images) == count
        assert index.images.fingerprint() == load_split(str(root), split, use_index=False).fingerprint()
        for i in range(count):
            fact = inspect_file(index.images.path(i), decode=True)
            assert (fact.size, fact.digest) == (index.files.sizes[i], index.files.digests[i].tobytes())
            assert (fact.width, fact.height, fact.reason) == (40, 32, None)
        assert index.files.reasons == {}


def test_splits_and_places_can_be_chosen(root: Path, tmp_path: Path) -> None:
    main([str(root), "--split", "val", "--output", str(tmp_path / "new/folder"), "-j", "0"])
    assert [p.name for p in (tmp_path / "new/folder").iterdir()] == ["val.index.safetensors"]
    assert {p.name for p in root.iterdir()} == {"train", "val"}


def test_list_files_get_an_index_that_training_takes(root: Path) -> None:
    names = [path.relative_to(root) for path in sorted((root / "train").rglob("*.JPEG"))]
    (root / "own.txt").write_text("".join(f"{name} {i}\n" for i, name in enumerate(names)))
    main([str(root), "--split", "train", "--cls_label_path_train", str(root / "own.txt"), "-j", "0"])
    found = load_split(str(root), "train", list_path="own.txt")
    assert type(found.paths).__name__ == "Paths"
    assert list(found.labels) == list(range(6))


def test_flat_folder_with_a_list_beside_it_gets_an_index(tmp_path: Path) -> None:
    root = write_tree(tmp_path, num_classes=2, train=1, val=2, flat_val=True)
    main([str(root), "-j", "0"])
    assert type(load_split(str(root), "val").paths).__name__ == "Paths"


def test_bad_images_are_listed_marked_and_an_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = root / "train/n01440764/tab\t and\nline \\.jpg"
    odd.write_bytes(b"")
    folder = root / "val/n01440765"
    (folder / "val 1 0.JPEG").write_bytes((folder / "val 1 0.JPEG").read_bytes()[:200])
    os.mkfifo(folder / "pipe.jpg")
    (folder / "broken.jpg").symlink_to("nowhere")
    with pytest.raises(
        DataError, match=r"^4 of 13 images cannot be read, all listed in .*train.bad_images.tsv and .*val"
    ):
        main([str(root), "-j", "2"])
    said = capsys.readouterr().err
    assert "/tab\\t and\\nline \\\\.jpg: is empty\n" in said
    assert (
        root / "train.bad_images.tsv"
    ).read_text() == f"{root}/train/n01440764/tab\\t and\\nline \\\\.jpg\tis empty\n"
    rows = [line.split("\t") for line in (root / "val.bad_images.tsv").read_text().splitlines()]
    assert [Path(path).name for path, _ in rows] == ["broken.jpg", "pipe.jpg", "val 1 0.JPEG"]
    assert [reason for _, reason in rows][:2] == ["no such file", "is not a regular file"]
    assert load_split(str(root), "val").bad == 3
    for path in (odd, folder / "pipe.jpg", folder / "broken.jpg", folder / "val 1 0.JPEG"):
        path.unlink()
    main([str(root), "-j", "0"])
    assert load_split(str(root), "val").bad == 0
    assert not list(root.glob("*.tsv")), "an old list would lie"


def test_bad_images_of_all_splits_go_to_one_list_if_it_is_named(root: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (root / split / "n01440764/a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 12 images cannot be read, all listed in .*bad\.tsv;"):
        main([str(root), "-j", "0", "--bad_list", str(tmp_path / "bad.tsv")])
    assert (tmp_path / "bad.tsv").read_text().count("\tis empty\n") == 2
    for split in ("train", "val"):
        (root / split / "n01440764/a.jpg").unlink()
    main([str(root), "-j", "0", "--bad_list", str(tmp_path / "bad.tsv")])
    assert (tmp_path / "bad.tsv").read_text() == "", "an old list would lie, and the file's name is somebody's choice"


def test_folder_that_goes_away_under_a_check_gives_no_index(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main([str(root), "--split", "train", "-j", "0"])
    before = index_path(root, "train").read_bytes()

    def vanish(path: str, *, decode: bool) -> FileFact:
        shutil.rmtree(root / "train", ignore_errors=True)
        return inspect_file(path, decode=decode)

    monkeypatch.setattr("util.data.inspection.inspect_file", vanish)
    with pytest.raises(ResumableError, match=r"data/train: is not there any more; no index of train was written$"):
        main([str(root), "--split", "train", "-j", "0"])
    assert index_path(root, "train").read_bytes() == before


def test_twenty_bad_images_are_named_and_the_others_counted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(25):
        (root / f"train/n01440764/bad {i:02d}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"^25 of 31 images"):
        main([str(root), "--split", "train", "-j", "0"])
    said = capsys.readouterr().err
    assert said.count(": is empty\n") == 20
    assert "\n  and 5 more\n" in said


def test_equal_files_are_reported_within_and_between_splits(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = root / "train/n01440764/n01440764 0.JPEG"
    shutil.copy(first, root / "train/n01440764/same class.JPEG")
    shutil.copy(first, root / "train/n01440765/other class.JPEG")
    shutil.copy(first, root / "val/n01440764/leak.JPEG")
    main([str(root), "-j", "0"])
    said = capsys.readouterr().err
    assert "train: 2 images have the same bytes as an earlier one, 1 of them with another label: " in said
    assert ": train/n01440764/same class.JPEG = train/n01440764/n01440764 0.JPEG, train/n01440765/other class" in said
    assert "val: 1 images have the same bytes as one of train: val/n01440764/leak.JPEG = train/n01440764/n0" in said
    assert "train: 8 images of 2 classes, 4 to 4 a class; 40 x 32 to 40 x 32 pixels" in said


def test_smallest_and_largest_image_are_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_picture(root / "train/n01440764/a.png", seed=0, size=(1, 5))
    write_picture(root / "train/n01440764/b.png", seed=0, size=(300, 100))
    main([str(root), "--split", "train", "-j", "0"])
    assert "train: 8 images of 2 classes, 3 to 5 a class; 1 x 5 to 300 x 100 pixels" in capsys.readouterr().err


# --- rot


def _flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(data)


def test_every_flipped_bit_is_found(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """300 flips, each anywhere in a JPEG; most leave a picture that decodes as if nothing had happened."""
    path = root / "train/n01440764/n01440764 0.JPEG"
    main([str(root), "--split", "train", "-j", "0"])
    index = read_index(index_path(root, "train"), root)
    recorded = index.files.digests[list(index.images.paths).index("train/n01440764/n01440764 0.JPEG")].tobytes()
    bits = np.random.default_rng(0).choice(8 * path.stat().st_size, 300, replace=False)
    found = silent = 0
    for bit in bits.tolist():
        _flip(path, bit)
        fact = inspect_file(str(path), decode=True)
        found += fact.digest != recorded
        silent += fact.reason is None
        _flip(path, bit)
    assert (found, silent > 200) == (300, True), "decoding alone misses most"
    main([str(root), "--split", "train", "-j", "0", "--verify"])
    for bit, j in ((77, "0"), (5001, "2")):
        _flip(root / f"train/n01440764/n01440764 {j}.JPEG", bit)
    (root / "train/n01440765/n01440765 1.JPEG").write_bytes(b"")
    before = snapshot(root)
    capsys.readouterr()
    with pytest.raises(DataError, match=r"^3 files are not what they were when they were checked"):
        main([str(root), "--split", "train", "-j", "2", "--verify"])
    said = capsys.readouterr().err
    assert re.findall(r"  .*/(.*): is not what it was", said) == [
        f"n0144076{i}" + f" {j}.JPEG" for i, j in ((4, 0), (4, 2), (5, 1))
    ]
    assert snapshot(root) == before


def test_verifying_names_what_is_gone_and_needs_an_index(root: Path) -> None:
    with pytest.raises(MissingInputError, match=r"train\.index\.safetensors: no such index; write it first"):
        main([str(root), "--verify", "-j", "0"])
    main([str(root), "-j", "0"])
    (root / "val/n01440764/val 0 0.JPEG").unlink()
    with pytest.raises(DataError, match=r"1 removed \(val/n01440764/val 0 0\.JPEG\)"):
        main([str(root), "--verify", "-j", "0"])


def test_verifying_finds_the_index_of_a_list_where_it_was_put(tmp_path: Path) -> None:
    root, place = write_tree(tmp_path / "own", num_classes=1, train=2, val=0), tmp_path / "elsewhere"
    (root / "train").rename(root / "pictures")
    (root / "own.txt").write_text("".join(f"pictures/n01440764/n01440764 {i}.JPEG 0\n" for i in range(2)))
    main([str(root), "--cls_label_path_train", "own.txt", "--output", str(place), "-j", "0"])
    main([str(root), "--output", str(place), "--verify", "-j", "0"])
    (root / "pictures/n01440764/n01440764 1.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match=r"^1 files are not what they were"):
        main([str(root), "--output", str(place), "--verify", "-j", "0"])


# --- what cannot be done


NO_EFFECT: dict[str, tuple[list[str], str]] = {
    "bad list": (["--verify", "--bad_list", "x.tsv"], r"--bad_list has no effect with --verify, .*; leave out"),
    "delimiter": (["--verify", "--delimiter", ","], r"--delimiter has no effect with --verify"),
    "list": (["--verify", "--cls_label_path_val", "x.txt"], r"--cls_label_path_val has no effect with --verify"),
    "list of another split": (
        ["--split", "train", "--cls_label_path_val", "x.txt"], r"--cls_label_path_val has no effect: val is .*; add",
    ),
    "delimiter of no list": (["--delimiter", ","], r"--delimiter has no effect: no list file is read; leave it out"),
    "timeout": (["-j", "0", "--data_timeout", "5"], r"--data_timeout has no effect with --num_workers 0.*; leave out"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_EFFECT)
def test_an_option_without_effect_is_refused_before_anything_is_read(name: str, root: Path) -> None:
    options, message = NO_EFFECT[name]
    before = snapshot(root)
    with pytest.raises(UsageError, match=f"^{message}"):
        main([str(root), *options])
    assert snapshot(root) == before


def test_the_same_options_are_taken_where_they_have_an_effect(root: Path, tmp_path: Path) -> None:
    """Negative control."""
    names = sorted(str(path.relative_to(root)) for path in (root / "train").rglob("*.JPEG"))
    (root / "own.txt").write_text("".join(f"{name},{i}\n" for i, name in enumerate(names)))
    (root / names[0]).write_bytes(b"")
    options = ["--split", "train", "--cls_label_path_train", "own.txt", "--delimiter", ","]
    with pytest.raises(DataError, match=r"1 of 6 images cannot be read, all listed in .*x\.tsv"):
        main([str(root), *options, "--bad_list", str(tmp_path / "x.tsv"), "-j", "1", "--data_timeout", "50"])
    assert (tmp_path / "x.tsv").read_text() == f"{root}/{names[0]}\tis empty\n"
    main([str(root), "--split", "train", "--verify", "-j", "1", "--data_timeout", "50"])


def test_wrong_arguments(root: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="gone: no such data folder"):
        main([str(root / "gone")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInputError, match=r"has neither train nor val; name its splits with --split"):
        main([str(tmp_path / "empty")])
    with pytest.raises(UsageError, match=r"--num_workers must be in \[0, 1024\]; got -1"):
        main([str(root), "-j", "-1"])
    write_cifar(tmp_path / "c", "cifar-10-batches-py")
    archive = pack(tmp_path / "c", "cifar-10-batches-py", tmp_path / "cifar-10-python.tar.gz")
    with pytest.raises(UsageError, match=r"archives of CIFAR are verified when they are read, and need no index"):
        main([str(archive), "--split", "train", "--output", str(tmp_path / "o")])


def test_place_that_cannot_be_written_is_known_before_anything_is_read(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (root / "train/n01440764/bad.jpg").write_bytes(b"")
    with pytest.raises(
        OutputError, match=r"file/x: cannot be written: Not a directory; --output FOLDER puts the index"
    ):
        main([str(root), "--output", str(tmp_path / "file/x")])


def test_folder_at_the_place_of_an_index_is_known_before_anything_is_read(root: Path) -> None:
    index_path(root, "val").mkdir()
    (root / "train/n01440764/bad.jpg").write_bytes(b"")
    with pytest.raises(OutputError, match=r"val\.index\.safetensors: is not a file; move it away, or choose another"):
        main([str(root), "-j", "0"])
    with pytest.raises(DataError, match=r"val\.index\.safetensors: expected an index, which is a file; delete it"):
        main([str(root), "-j", "0", "--split", "val", "--verify"])


def test_link_at_the_place_of_an_index_is_replaced(root: Path) -> None:
    path = index_path(root, "train")
    path.symlink_to(path.name)
    with pytest.raises(DataError, match=r"Too many levels of symbolic links; delete it, or write it anew"):
        main([str(root), "-j", "0", "--split", "train", "--verify"])
    main([str(root), "-j", "0", "--split", "train"])
    assert not path.is_symlink()
    assert type(load_split(str(root), "train").paths).__name__ == "Paths"


def test_full_disk_leaves_the_index_that_was_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main([str(root), "--split", "train", "-j", "0"])
    before = snapshot(root)

    def full(*arguments: object, **options: object) -> None:
        raise SaveError("x: not saved: No space left on device; earlier checkpoints are untouched")

    monkeypatch.setattr("util.data.index.write_container", full)
    with pytest.raises(SaveError, match=r"No space left on device; make room or choose another --output"):
        main([str(root), "--split", "train", "-j", "0"])
    assert snapshot(root) == before
