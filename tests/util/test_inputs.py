"""Which images the names on a command line stand for."""

import os
from pathlib import Path

import pytest

from util.data.find_images import find_images
from util.errors import DataError, MissingInputError, UsageError
from util.inputs import collect_inputs, walk_images


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.JPEG", "a.png", "sub/c.jpg", "notes.txt", "odd [1].jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfb.JPEG\r\n\r\nodd [1].jpg\r\nnowhere.jpg\r\n")
    (tmp_path / "nothing.txt").write_text("\n\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.png"], ["a.png"]),
        (["b.JPEG", "a.png"], ["b.JPEG", "a.png"]),  # as they were named
        (["notes.txt"], ["notes.txt"]),  # content decides, later
        (["."], ["./a.png", "./b.JPEG", "./odd [1].jpg", "./sub/c.jpg"]),
        (["sub"], ["sub/c.jpg"]),
        (["*.*g"], ["a.png", "odd [1].jpg"]),
        (["**/*.jpg"], ["odd [1].jpg", "sub/c.jpg"]),
        (["odd [1].jpg"], ["odd [1].jpg"]),  # a file that is there is no pattern
        (["@list.txt"], ["b.JPEG", "odd [1].jpg", "nowhere.jpg"]),
        (["sub", "@list.txt", "?.png"], ["sub/c.jpg", "b.JPEG", "odd [1].jpg", "nowhere.jpg", "a.png"]),
    ],
)
def test_names_stand_for_files(names: list[str], expected: list[str], folder: Path) -> None:
    assert list(collect_inputs(names, option="--infer_imgs")) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.jpg", "gone.jpg: no such file or folder"),
        ("gone*.jpg", r"gone\*.jpg: nothing matches"),
        ("empty", "empty: no images in this folder"),
        ("@gone.txt", "gone.txt: no such file"),
    ],
)
def test_nothing_found_is_an_error(name: str, message: str, folder: Path) -> None:
    with pytest.raises(MissingInputError, match=message):
        collect_inputs(["a.png", name], option="--infer_imgs")


@pytest.mark.parametrize("names", [[], ["@nothing.txt"]])
def test_no_images_at_all_is_a_usage_error(names: list[str], folder: Path) -> None:
    with pytest.raises(UsageError, match=r"no images: name .* with --infer_imgs"):
        collect_inputs(names, option="--infer_imgs")


def test_broken_link_is_a_file_to_report_later(folder: Path) -> None:
    (folder / "broken.jpg").symlink_to("gone")
    assert list(collect_inputs(["broken.jpg"], option="--infer_imgs")) == ["broken.jpg"]


def test_folders_are_walked_in_the_order_of_sorted_paths(tmp_path: Path) -> None:
    names = [
        "a/z.jpg",
        "a.jpg",
        "a-b/c.png",
        "a b/d.jpg",
        "a/b/c/d.bmp",
        "B.JPG",
        "ä.webp",
        ".hidden/x.jpg",
        "a/.x.jpg",
    ]
    for name in (*names, "a/notes.txt", "looks.jpg/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    (tmp_path / "linked").symlink_to("a")
    (tmp_path / "linked.jpg").symlink_to("a")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).touch()
    found = list(walk_images(str(tmp_path)))
    assert found == [os.path.join(tmp_path, name) for name in find_images(tmp_path)]
    assert len(found) == 11
    assert list(collect_inputs([str(tmp_path)], option="--infer_imgs")) == found


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    (tmp_path / "sub").mkdir()
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="sub: cannot be read: Permission denied"):
        collect_inputs([str(tmp_path / "sub")], option="--infer_imgs")


def test_a_line_with_a_null_character_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.jpg\nb\0c.jpg\n")
    with pytest.raises(DataError, match=r"list\.txt:2: the path has a null character"):
        collect_inputs([f"@{tmp_path / 'list.txt'}"], option="--infer_imgs")


def test_lines_of_a_list_end_with_line_feeds_alone(tmp_path: Path) -> None:
    """Names may hold everything else that Python takes for the end of a line, and bytes that are not UTF-8."""
    names = ["a\x0bb.jpg", "a\x0cb.jpg", "a\x85b.jpg", "a\u2028b.jpg", "a\rb.jpg", "ä 1.jpg"]
    content = "\ufeff" + "\n".join(names[:3]) + "\n\n  " + "\r\n".join(names[3:])
    (tmp_path / "list.txt").write_bytes(content.encode() + b"\ncaf\xe9.jpg")
    assert list(collect_inputs([f"@{tmp_path / 'list.txt'}"], option="--infer_imgs")) == [
        *names,
        os.fsdecode(b"caf\xe9.jpg"),
    ]


def test_many_paths_take_little_memory(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"folder/{i:07d}.jpg\n" for i in range(100_000)))
    files = collect_inputs([f"@{tmp_path / 'list.txt'}"], option="--infer_imgs")
    assert len(files) == 100_000
    assert files[99_999] == "folder/0099999.jpg"
    assert files.joined.nbytes / len(files) < 20
