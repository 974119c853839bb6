"""Which samples shards hold: WebDataset's layout, and each thing that is wrong with a shard in one line."""

import gzip
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.tars import File, sample, samples, special, tar_bytes, with_header, write_shards
from util.data.shard_index import key_and_extension, read_index, scan_shards, write_index
from util.errors import DataError, MismatchError


@pytest.mark.parametrize(("name", "expected"), [
    ("a.jpg", ("a", "jpg")), ("a/b/c.JPEG", ("a/b/c", "jpeg")), ("a.seg.png", ("a", "seg.png")),
    ("v1.0/a.cls", ("v1.0/a", "cls")), ("a", None), ("a/README", None), (".a.jpg", None), ("b/._a.jpg", None),
    ("__meta.x__", None), ("b/__x.y__", ("b/__x", "y__")), ("__x.jpg", ("__x", "jpg")),
])  # fmt: skip
def test_keys_are_those_of_webdataset(name: str, expected: tuple[str, str] | None) -> None:
    assert key_and_extension(name) == expected


def test_samples_are_found_with_their_bytes_and_classes(tmp_path: Path) -> None:
    first: list[File] = [
        ("__meta.info__", b"{}"), ("README.txt", b"hello"), ("._a.jpg", b"apple"),
        ("n1/a.json", b"{}"), ("n1/a.JPEG", b"picture a"), ("n1/a.cls", b" 4\n"),
    ]  # fmt: skip
    second: list[File] = [
        *sample("n1/b", 0, b"b", ".webp"),
        ("n2/c.cls", b"00"),
        ("n2/c.seg.png", b"mask"),
        ("n2/c.png", b"c"),
    ]
    paths = write_shards(tmp_path, first, second)
    index = scan_shards(paths, None)
    assert list(index.paths) == [
        "train-000000.tar:n1/a.JPEG",
        "train-000001.tar:n1/b.webp",
        "train-000001.tar:n2/c.png",
    ]
    assert (index.labels.tolist(), index.counts.tolist()) == ([4, 0, 0], [1, 2])
    contents = [paths[0].read_bytes(), paths[1].read_bytes(), paths[1].read_bytes()]
    found = [c[o : o + s] for c, o, s in zip(contents, index.offset.tolist(), index.size.tolist(), strict=True)]
    assert found == [b"picture a", b"b", b"c"]


GOOD = tar_bytes(samples(2, first=2))


HOSTILE: dict[str, tuple[bytes, str]] = {
    "truncated": (GOOD[:1537], "s02.jpg: ends at byte 1,539 of 1,537: damaged, or not copied completely"),
    "cut between files": (GOOD[:2048], "stops at byte 2,048 without a tar's end: damaged"),
    "checksum": (GOOD[:1024] + b"t" + GOOD[1025:], "no tar header at byte 1,024 (its checksum is wrong)"),
    "size beyond the file": (
        with_header(GOOD, at=1024, field=124, value=b"77777777777\0"), "s02.jpg: ends at byte 8,589,936,127 of 10,240"
    ),
    "negative size": (with_header(GOOD, at=1024, field=124, value=b"\xff" * 12), "byte 1,024 (a number is wrong)"),
    "symbolic link": (tar_bytes([special("s02.jpg", tarfile.SYMTYPE, "/etc/passwd")]), "s02.jpg: is a symbolic link"),
    "hard link": (tar_bytes([special("s02.jpg", tarfile.LNKTYPE, "s01.jpg")]), "s02.jpg: is a hard link"),
    "device": (tar_bytes([special("s02.jpg", tarfile.CHRTYPE)]), "s02.jpg: is a device"),
    "FIFO inside": (tar_bytes([special("s02.jpg", tarfile.FIFOTYPE)]), "s02.jpg: is a FIFO"),
    "sparse": (tar_bytes([special("s02.jpg", tarfile.GNUTYPE_SPARSE)]), "s02.jpg: is a sparse file"),
    "unknown type": (with_header(GOOD, field=156, value=b"V"), "s02.cls: is of the unknown type b'V'"),
    "outside": (tar_bytes(sample("../s02", 0)), "'../s02.cls': the name must stay inside the archive; pack it again"),
    "absolute": (tar_bytes(sample("/s02", 0)), "'/s02.cls': the name must stay inside the archive"),
    "not UTF-8": (with_header(GOOD, field=0, value=b"s\xff2.cls"), "the name is not UTF-8; rename it and pack again"),
    "no class": (tar_bytes([("s02.jpg", b"x")]), "s02: has no .cls; expected one image and one .cls a key"),
    "no image": (tar_bytes([("s02.cls", b"1"), ("s02.tiff", b"x")]), "s02: has no image (.jpg .jpeg .png .bmp .webp)"),
    "two images": (
        tar_bytes([*sample("s02", 1), ("s02.png", b"x")]), "bmp .webp): s02.jpg, s02.png; expected"
    ),
    "two classes": (tar_bytes([("s02.cls", b"1"), *sample("s02", 1)]), "s02: has more than one .cls: s02.cls, s02.cls"),
    "class is a name": (tar_bytes(sample("s02", "cat")), "s02: its .cls must be an integer of at least 0, got 'cat'"),
    "class is negative": (tar_bytes(sample("s02", -1)), "s02: its .cls must be an integer of at least 0, got '-1'"),
    "class is a float": (tar_bytes(sample("s02", "1.0")), "s02: its .cls must be an integer of at least 0, got '1.0'"),
    "class is empty": (tar_bytes(sample("s02", "")), "s02: its .cls must be an integer of at least 0, got ''"),
    "class is long": (tar_bytes(sample("s02", "0" * 4000)), "s02: its .cls must be an integer of at least 0"),
    "class too large": (
        tar_bytes(sample("s02", 3)), "000001.tar:s02.jpg: class 3 is outside the 3 classes (0 to 2); mend"
    ),
    "not adjacent": (
        tar_bytes([*sample("s02", 1), *sample("s03", 1), ("s02.jpg", b"")]), "s02: its files are not next to each other"
    ),
    "key of another shard": (tar_bytes(sample("s01", 1)), "s01: train-000000.tar has this key, too; each"),
    "no samples": (tar_bytes([]), "holds no samples; remove it, or pack it again"),
    "empty file": (b"", "stops at byte 0 without a tar's end"),
    "a page": (b"<html>" * 1000, "is no tar archive (a number is wrong): damaged"),
    "compressed": (gzip.compress(GOOD), "is compressed (gzip), so that no image can be read alone; decompress it"),
    "joined": (GOOD + GOOD, "has data after its end at byte 4,096"),
    "global header": (
        with_header(tar_bytes([("g", b"14 path=a.jpg\n")]), field=156, value=b"g"),
        "a global header sets path for all files; pack it again",
    ),
    "extended header": (
        with_header(tar_bytes([("x", b"99 path=a.jpg\n")]), field=156, value=b"x"),
        "an extended header at byte 512 is wrong"
    ),
    "extended size": (
        with_header(tar_bytes([("x", b"12 size=-12\n"), *samples(1)]), field=156, value=b"x"),
        "a size of '-12': damaged"
    ),
    "extended sparse": (
        with_header(tar_bytes([("x", b"22 GNU.sparse.major=1\n"), *samples(1)]), field=156, value=b"x"),
        "s00.cls: is a sparse file"
    ),
    "extended header of megabytes": (
        with_header(with_header(GOOD, field=156, value=b"x"), field=124, value=b"00010000001\0"),
        "an extended header of 2,097,153 bytes at byte 512: damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_each_hostile_shard_is_one_line_that_names_it(case: str, tmp_path: Path) -> None:
    archive, expected = HOSTILE[case]
    good, bad = write_shards(tmp_path, samples(2), [])
    bad.write_bytes(archive)
    with pytest.raises(DataError) as caught:
        scan_shards([good, bad], ["a", "b", "c"])
    said = str(caught.value)
    assert said.startswith("train-000001.tar: ") or case == "class too large"
    assert expected in said
    assert len(said.splitlines()) == 1


def test_the_good_shards_of_that_table_are_read(tmp_path: Path) -> None:
    good, other = write_shards(tmp_path, samples(2), [])
    other.write_bytes(GOOD)
    assert scan_shards([good, other], ["a", "b", "c"]).labels.tolist() == [0, 1, 2, 0]


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a FIFO": (os.mkfifo, "is no regular file; expected a tar archive"),
    "a folder": (os.mkdir, "is a folder; expected a tar archive"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "no such file; expected a tar archive"),
}


@pytest.mark.parametrize("what", PLACES)
def test_other_things_in_a_shards_place_are_refused_at_once(what: str, tmp_path: Path) -> None:
    make, expected = PLACES[what]
    good, bad = write_shards(tmp_path, samples(2), [])
    bad.unlink()
    make(bad)
    with pytest.raises(DataError, match=rf"^train-000001\.tar: {expected}$"):
        scan_shards([good, bad], None)


def test_faults_are_collected_ten_named_and_all_counted(tmp_path: Path) -> None:
    shards: list[Sequence[File]] = [
        [*sample(f"x{i}", "?"), *sample(f"y{i}", 0), *sample(f"z{i}", -1)] for i in range(6)
    ]
    with pytest.raises(DataError, match=r"; and 2 more$") as caught:
        scan_shards(write_shards(tmp_path, *shards), None)
    assert str(caught.value).count("its .cls must be an integer") == 10


def test_an_index_gives_back_what_was_read(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, samples(5), samples(4, first=5))
    read = scan_shards(paths, ["a", "b", "c"])
    write_index(read, tmp_path / "train.shards.safetensors")
    found = read_index(tmp_path / "train.shards.safetensors", paths, ["a", "b", "c"])
    assert (found.shards, list(found.paths), found.class_names) == (read.shards, list(read.paths), ["a", "b", "c"])
    for name in ("counts", "offset", "size", "labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(read, name))
        assert getattr(found, name).dtype == np.int64


def touch(paths: list[Path]) -> None:
    os.utime(paths[1], ns=(0, paths[1].stat().st_mtime_ns + 1))


def lengthen(paths: list[Path]) -> None:
    paths[1].write_bytes(paths[1].read_bytes() + bytes(512))


def replace_by_a_folder(paths: list[Path]) -> None:
    paths[1].unlink()
    paths[1].mkdir()


@pytest.mark.parametrize(("change", "expected"), [
    (touch, "train-000001.tar was changed"),
    (lengthen, "train-000001.tar has 10,752 bytes, not 10,240"),
    (lambda paths: paths.pop(), "train-000002.tar is missing"),
    (lambda paths: paths.extend(write_shards(paths[0].parent, samples(1), split="new")), "new-000000.tar is not in it"),
    (replace_by_a_folder, "train-000001.tar is no regular file"),
])  # fmt: skip
def test_shards_that_changed_since_are_refused(
    change: Callable[[list[Path]], object], expected: str, tmp_path: Path
) -> None:
    paths = write_shards(tmp_path, samples(2), samples(2, first=2), samples(2, first=4))
    place = tmp_path / "train.shards.safetensors"
    write_index(scan_shards(paths, None), place)
    assert len(read_index(place, paths, None).labels) == 6
    change(paths)
    advice = f"write it again with python -m util.data.shard --index {tmp_path}"
    with pytest.raises(MismatchError) as caught:
        read_index(place, paths, None)
    assert expected in str(caught.value)
    assert advice in str(caught.value)


def test_other_class_names_than_the_index_was_written_with_are_refused(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, samples(2))
    write_index(scan_shards(paths, ["a", "b"]), tmp_path / "i.safetensors")
    with pytest.raises(MismatchError, match="the class names are others"):
        read_index(tmp_path / "i.safetensors", paths, ["a", "c"])


def test_a_damaged_index_says_what_to_do(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, samples(8))
    place = tmp_path / "i.safetensors"
    write_index(scan_shards(paths, None), place)
    whole = place.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(32):
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        place.write_bytes(damaged)
        with pytest.raises(DataError, match=r"remove it, or write it again with python -m util\.data\.shard --index "):
            read_index(place, paths, None)
    place.write_bytes(whole)
    assert len(read_index(place, paths, None).labels) == 8


def test_an_index_takes_few_bytes_an_image(tmp_path: Path) -> None:
    """The form is that of 1.3 million: arrays, and one block of bytes for the names."""
    paths = write_shards(
        tmp_path, [file for i in range(5_000) for file in sample(f"n{i % 1000:08d}/picture_{i:08d}", 0)]
    )
    index = scan_shards(paths, None)
    held = sum(part.nbytes for part in (index.offset, index.size, index.labels, index.paths.joined))
    assert held / len(index.labels) < 80  # bytes an image: three numbers of 8, and its name of 40
