"""An export as one zip: what is unpacked, what is left in it, and what is refused."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.util.deploy.test_bundle import GREY
from util.deploy.archive import pack
from util.deploy.bundle import PARAMS, PROGRAMS, load_bundle
from util.deploy.manifest import MANIFEST, file_sha256
from util.errors import MissingInputError, OutputError, WeightsError

NAMES = (*PROGRAMS, PARAMS, MANIFEST)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of an export, whose hashes are right."""
    place = tmp_path / "export"
    place.mkdir()
    for name in (*PROGRAMS, PARAMS):
        (place / name).write_bytes(name.encode() * 100)
    replace(GREY, sha256={name: file_sha256(place / name) for name in (*PROGRAMS, PARAMS)}).write(place)
    return place


@pytest.fixture
def packed(folder: Path, tmp_path: Path) -> Path:
    pack(folder, NAMES, tmp_path / "export.zip")
    return tmp_path / "export.zip"


def test_an_archive_is_the_export_in_it(packed: Path, folder: Path) -> None:
    bundle, whole = load_bundle(packed), load_bundle(folder)
    assert bundle.manifest == whole.manifest
    assert bundle.contents == whole.contents
    for name in PROGRAMS:
        assert bundle.program((name,)).path.read_bytes() == (folder / name).read_bytes()
    assert bundle.folder.stat().st_mode & 0o077 == 0, "nobody else can put other programs there"


def test_an_archive_of_the_folder_by_another_tool_is_read(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "theirs.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("my model/")
        for name in NAMES:
            archive.write(folder / name, f"my model/{name}")
        archive.writestr("my model/notes.txt", "left there")
        archive.writestr("my model/deeper/model.json", "left there")
        archive.writestr("../../escaped.json", "left there")
    bundle = load_bundle(path)
    assert sorted(os.listdir(bundle.folder)) == sorted(NAMES)
    assert bundle.program().path.name == PROGRAMS[0]
    assert not (tmp_path.parent / "escaped.json").exists()


def test_what_was_unpacked_is_gone_with_the_process(packed: Path) -> None:
    code = "import sys; from util.deploy.bundle import load_bundle; print(load_bundle(sys.argv[1]).folder)"
    done = subprocess.run([sys.executable, "-c", code, str(packed)], capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    assert not Path(done.stdout.strip()).exists()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[200] ^= 1  # within the first program, whose checksum the archive has
    path.write_bytes(data)


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, b" " * 50_000_000)


def twice(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(PROGRAMS[0], b"other")


def two_exports(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"other/{MANIFEST}", "{}")


def no_export(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.md", "hello")


def crowded(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        for i in range(1001):
            archive.writestr(f"{i}.txt", "")


def changed(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files[PARAMS] = files[PARAMS][:-1] + b"!"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (truncate, WeightsError, "is no readable zip archive"),
        (flip, WeightsError, "is no readable zip archive: Bad CRC-32"),
        (bomb, WeightsError, r"export\.json claims 50000000 bytes of \d+"),
        (twice, WeightsError, "holds model.json twice"),
        (two_exports, MissingInputError, "holds several exports"),
        (no_export, MissingInputError, "holds no export.json; zip the folder"),
        (crowded, WeightsError, "holds 1005 entries"),
        (changed, WeightsError, r"model\.pdiparams is damaged, or of another export"),
    ],
)
def test_other_archives_are_refused(
    damage: Callable[[Path], None], error: type[Exception], message: str, packed: Path
) -> None:
    damage(packed)
    with pytest.raises(error, match=message):
        load_bundle(packed).program()


def test_no_room_to_unpack_is_said(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "closed"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place / "gone"))
    with pytest.raises(OutputError, match="cannot be unpacked"):
        load_bundle(packed)
