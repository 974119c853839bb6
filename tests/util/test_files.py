"""Files that a user names: to read, and to write."""

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from util.errors import DataError, MissingInputError, OutputError, UsageError, UserError
from util.files import as_line, check_new_file, kind_of, read_text


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder into which nobody may look, whoever runs the tests: root could if only its mode forbade it."""
    folder, ask = tmp_path / "locked", os.stat
    folder.mkdir()

    def refuse(path: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(f"{folder}/"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return ask(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    return folder


def test_what_is_at_a_path_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for link, target in (("to_file", "file"), ("to_pipe", "pipe"), ("to_device", "/dev/zero"), ("to_nothing", "gone")):
        (tmp_path / link).symlink_to(target)
    expected = {
        "": "folder", "file": "file", "pipe": "other", "to_file": "file", "to_pipe": "other", "to_device": "other",
        "to_nothing": "nothing", "gone": "nothing", "gone/below": "nothing", "file/below": "nothing",
    }  # fmt: skip
    assert {name: kind_of(tmp_path / name) for name in expected} == expected


def test_what_cannot_be_asked_is_a_missing_input(tmp_path: Path, locked: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path, reason in (
        (tmp_path / ("a" * 300), "File name too long"),
        (tmp_path / "loop", "Too many levels of symbolic links"),
        (locked / "x.pdparams", "Permission denied"),
    ):
        with pytest.raises(MissingInputError) as caught:
            kind_of(path)
        assert str(caught.value) == f"{path}: cannot be read: {reason}"


def test_text_is_read_without_its_mark_of_byte_order(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes("猫\n".encode())
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbf" + "猫\n".encode())
    assert read_text(tmp_path / "plain") == read_text(tmp_path / "marked") == "猫\n"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("gone", MissingInputError, "no such file"),
        ("file/below", MissingInputError, "cannot be read: Not a directory"),
        ("folder", DataError, "is not a regular file"),
        ("pipe", DataError, "is not a regular file"),
        ("latin1", DataError, "not UTF-8 text"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, name: str, error: type[UserError], message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin1").write_bytes("müde".encode("latin1"))
    with pytest.raises(error) as caught:
        read_text(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: {message}"


def test_a_new_file_is_one_that_can_be_written_and_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "new.txt"
    assert check_new_file(str(path), suffix=".txt") == path
    assert not path.exists()
    path.touch()
    (tmp_path / "dangling.txt").symlink_to("nowhere.txt")
    for name in ("new.txt", "dangling.txt"):
        with pytest.raises(OutputError, match="exists; nothing is written over"):
            check_new_file(str(tmp_path / name), suffix=".txt")
    with pytest.raises(OutputError, match=r"there is no folder .*gone"):
        check_new_file(str(tmp_path / "gone" / "new.txt"), suffix=".txt")
    with pytest.raises(UsageError, match=r"must end in \.txt; got .*new\.csv"):
        check_new_file(str(tmp_path / "new.csv"), suffix=".txt")


@pytest.mark.parametrize("letters", [260, 240])  # 240 are a name, but not with the beginning of a file beside
def test_a_new_file_whose_name_is_too_long_is_refused_before_anything_is_computed(letters: int, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written: File name too long; choose another --output"):
        check_new_file(str(tmp_path / ("b" * letters + ".txt")), suffix=".txt")
    longest = tmp_path / ("b" * 230 + ".txt")
    assert check_new_file(str(longest), suffix=".txt") == longest
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_where_none_can_be_made_is_refused(
    tmp_path: Path, locked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OutputError, match=r"locked/x\.txt: cannot be written: Permission denied"):
        check_new_file(str(locked / "x.txt"), suffix=".txt")

    def refuse(**_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(OutputError, match=r"/x\.txt: cannot be written: Read-only file system"):
        check_new_file(str(tmp_path / "x.txt"), suffix=".txt")


def test_a_line_stays_one() -> None:
    assert as_line("a b.png: 猫 (3 %)") == "a b.png: 猫 (3 %)"
    assert as_line("a\nb\u2028\udcff") == "a\\nb\\u2028\\udcff"
