"""Files that a user names: to read, and to write."""

import os
from pathlib import Path

import pytest

from util.errors import DataError, MissingInputError, OutputError, UsageError, UserError
from util.files import check_new_file, read_text


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
