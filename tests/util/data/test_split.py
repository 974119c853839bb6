"""Splitting a folder of one's own: stratified, repeatable, nothing overwritten, and lists that train.py reads."""

import errno
import os
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from tests.scripts.run import ROOT, last_error, run
from train import TrainSettings
from util.data.class_names import read_class_names
from util.data.split import main, split_folder
from util.data.splits import load_split
from util.errors import DataError, MissingInputError, OutputError, SaveError, UsageError
from util.settings import parse


def make_folder(root: Path, **counts: int) -> Path:
    """Writes a folder with so many (empty) images for each class; `_` in a name is a space."""
    for name, count in counts.items():
        for i in range(count):
            path = root / name.replace("_", " ") / f"bild {i:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


def labels(lines: list[str]) -> Counter[int]:
    return Counter(int(line.rsplit(" ", 1)[1]) for line in lines)


@pytest.mark.parametrize(("val", "expected"), [
    (0.1, {0: 1, 1: 1, 2: 4}), (0.5, {0: 1, 1: 5, 2: 20}), (0.01, {0: 1, 1: 1, 2: 1}), (0.99, {0: 1, 1: 9, 2: 39}),
])  # fmt: skip
def test_each_class_gives_its_part_at_least_one_and_never_all(
    val: float, expected: dict[int, int], tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, a=2, b=10, c=40, d=1)
    split = split_folder(folder, val=val, seed=42)
    assert labels(split.val) == expected
    total = {0: 2, 1: 10, 2: 40, 3: 1}
    assert labels(split.train) == {label: count - expected.get(label, 0) for label, count in total.items()}
    assert sorted(split.train + split.val) == sorted(set(split.train + split.val))
    assert (split.single, split.class_names) == (["d"], ["a", "b", "c", "d"])


def test_the_choice_follows_from_the_seed_and_the_paths_alone(tmp_path: Path) -> None:
    one = split_folder(make_folder(tmp_path / "one", a=50, b=50), val=0.2, seed=1)
    assert one == split_folder(make_folder(tmp_path / "two", b=50, a=50), val=0.2, seed=1)
    other = split_folder(tmp_path / "one", val=0.2, seed=2)
    both = set(one.val) & set(other.val)
    assert 0 < len(both) < 10  # 20 of 100, independently: 4 in common on average
    assert one.val[:10] != sorted(one.train + one.val)[:10]  # not simply the first ones


def test_images_stay_where_they_are_when_others_are_added(tmp_path: Path) -> None:
    before = split_folder(make_folder(tmp_path, a=100), val=0.1, seed=0)
    after = split_folder(make_folder(tmp_path, a=110, b=5), val=0.1, seed=0)
    assert len(set(before.val) - set(after.val)) <= 2  # 10 of 100, then 11 of 110


def test_lists_are_what_training_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "own images", Äpfel=12, rote_Birnen=3, z=1)
    (folder / "notes.txt").touch()
    main([str(folder), "--val", "0.25"])
    said = capsys.readouterr().err
    assert "12 training and 4 validation images of 3 classes" in said
    assert re.search(r"warning: a single image.*: z$", said, re.MULTILINE)
    command = shlex.split(re.search(r"train on them: (.*)", said)[1])  # type: ignore[index]
    assert command[:2] == ["python", "train.py"]
    settings = parse(
        TrainSettings, [*command[2:-2], "--model", "cvt_nano_32x32"], description="", positional="data_dir"
    )
    train = load_split(settings.data.data_dir, "train", list_path=settings.train_data.cls_label_path_train)
    val = load_split(settings.data.data_dir, "val", list_path=settings.data.cls_label_path_val)
    assert Counter(train.labels.tolist()) == {0: 2, 1: 1, 2: 9}
    assert Counter(val.labels.tolist()) == {0: 1, 2: 3}
    assert all(Path(images.path(i)).is_file() for images in (train, val) for i in range(len(images)))
    assert settings.names.class_names is not None
    assert read_class_names(Path(settings.names.class_names), 3) == ["rote Birnen", "z", "Äpfel"]
    assert [name.split("/")[0] for name in train.paths[:3]] == ["rote Birnen", "rote Birnen", "z"]


def test_lists_go_to_another_folder_with_paths_relative_to_the_images(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "images", a=4, b=4)
    main([str(folder), "--output", str(tmp_path / "lists" / "deep")])
    assert {p.name for p in (tmp_path / "lists" / "deep").iterdir()} == {
        "train_list.txt", "val_list.txt", "class_names.txt",
    }  # fmt: skip
    assert {p.name for p in folder.iterdir()} == {"a", "b"}
    images = load_split(str(folder), "val", list_path=str(tmp_path / "lists" / "deep" / "val_list.txt"))
    assert images.labels.tolist() == [0, 1]


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, a=4, b=4)
    (folder / "class_names.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"class_names\.txt: already there; --force overwrites"):
        main([str(folder)])
    assert (folder / "class_names.txt").read_text() == "mine"
    assert not (folder / "train_list.txt").exists()
    main([str(folder), "--force"])
    assert (folder / "class_names.txt").read_text() == "0 a\n1 b\n"


def test_folder_that_is_split_already_is_refused_with_advice(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", a=1, b=1)
    with pytest.raises(UsageError, match=r"is split already.*train with train\.py"):
        split_folder(tmp_path, val=0.1, seed=0)
    assert split_folder(make_folder(tmp_path / "rail", train=3, tram=3), val=0.1, seed=0).class_names == [
        "train", "tram",
    ]  # fmt: skip


def test_folders_that_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="gone: no such folder"):
        split_folder(tmp_path / "gone", val=0.1, seed=0)
    with pytest.raises(DataError, match=r"no class folders; expected .*/<class>/<image>"):
        split_folder(tmp_path, val=0.1, seed=0)
    folder = make_folder(tmp_path / "own", a=4)
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"class folders without images .*own/empty; remove or fill"):
        split_folder(folder, val=0.1, seed=0)
    (folder / "empty").rmdir()
    with pytest.raises(DataError, match="every class has a single image"):
        main([str(make_folder(tmp_path / "single", a=1, b=1))])
    assert not list((tmp_path / "single").glob("*.txt"))


@pytest.mark.parametrize("name", [" a", "a\u00a0", "a\nb", "a\x1cb", b"\xff".decode("utf-8", "surrogateescape")])
def test_names_that_no_line_can_hold_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "1.jpg").touch()
    with pytest.raises(DataError, match=r"cannot stand in a list file|not UTF-8"):
        split_folder(tmp_path, val=0.1, seed=0)


@pytest.mark.parametrize("arguments", [
    ["--val", "0"], ["--val", "1"], ["--val", "nan"], ["--val", "x"], ["--seed", "1.5"], ["--outpt", "x"],
])  # fmt: skip
def test_wrong_options(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        main([str(make_folder(tmp_path, a=2)), *arguments])


def test_command_line_ends_with_one_line_and_its_exit_code(tmp_path: Path) -> None:
    make_folder(tmp_path / "own", a=2, b=2)
    done = run("util/data/split.py", "own", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.stdout == ""
    assert "train on them: python train.py own" in done.stderr
    assert "already there" in last_error(run("util/data/split.py", "own", cwd=tmp_path, code=73, PYTHONPATH=str(ROOT)))
    assert "FOLDER" in last_error(run("util/data/split.py", cwd=tmp_path, code=2, PYTHONPATH=str(ROOT)))


def test_a_full_disk_leaves_nothing_and_the_call_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path, a=4, b=4)
    real = Path.write_text

    def full(path: Path, text: str, **options: str) -> int:
        if "class_names" in path.name:
            path.touch()
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return real(path, text, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(SaveError, match=r"no list was written: File too large; make room") as caught:
            main([str(folder)])
    assert caught.value.exit_code == 74
    assert {path.name for path in folder.iterdir()} == {"a", "b"}
    main([str(folder)])
    assert {path.name for path in folder.iterdir()} == {"a", "b", "train_list.txt", "val_list.txt", "class_names.txt"}
