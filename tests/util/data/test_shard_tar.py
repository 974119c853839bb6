"""Headers of tar archives: the same files at the same places as tarfile finds them, and nothing lost unnoticed."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.tars import File, samples, special, tar_bytes, with_header
from util.data.shard_tar import Member, TarReader
from util.errors import DataError


def members(path: Path, archive: bytes) -> list[Member]:
    path.write_bytes(archive)
    with TarReader(path) as tar:
        return list(tar.members())


def by_tarfile(archive: bytes) -> list[Member]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return [Member(m.name.removeprefix("./"), m.offset_data, m.size) for m in tar if m.isfile()]


LONG = "ordner/" + "n" * 90 + "/" + "b" * 80 + ".jpg"
FILES: list[File] = [
    ("a.cls", b"1"),
    ("a.jpg", bytes(513)),
    ("数据 集/é (1)/😀.jpg", b"x" * 512),
    (LONG, b"y"),
    ("leer.jpg", b""),
]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_is_read_as_tarfile_reads_it(format: int, tmp_path: Path) -> None:
    files: list[File | tarfile.TarInfo] = [
        special("ordner", tarfile.DIRTYPE),
        *FILES,
        special("./x", tarfile.DIRTYPE),
        ("./x/b.jpg", b"z"),
    ]
    archive = tar_bytes(files, format=format)
    found = members(tmp_path / "a.tar", archive)
    assert found == by_tarfile(archive)
    assert [member.name for member in found] == [*(name for name, _ in FILES), "x/b.jpg"]
    for member, (_, content) in zip(found, FILES, strict=False):
        assert archive[member.offset : member.offset + member.size] == content


def test_names_with_a_prefix_as_ustar_splits_them(tmp_path: Path) -> None:
    archive = tar_bytes([(LONG, b"data")], format=tarfile.USTAR_FORMAT)
    assert archive[345:351] == b"ordner"  # or this test would not be about the prefix
    assert members(tmp_path / "a.tar", archive) == [Member(LONG, 512, 4)]


def test_sizes_that_eight_digits_cannot_hold(tmp_path: Path) -> None:
    archive = tar_bytes([("a.jpg", b"data")])
    large = with_header(archive, field=124, value=b"\x80" + (4).to_bytes(11, "big"))
    assert members(tmp_path / "a.tar", large) == [Member("a.jpg", 512, 4)] == by_tarfile(large)


def test_a_size_in_an_extended_header_counts(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.size, info.pax_headers = 4, {"size": "4", "comment": "größer"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(b"data"))
    archive = with_header(buffer.getvalue(), at=1024, field=124, value=b"%011o\0" % 0)
    assert members(tmp_path / "a.tar", archive) == [Member("a.jpg", 1536, 4)]


def test_signed_checksums_of_old_programs(tmp_path: Path) -> None:
    archive = tar_bytes([("é.jpg", b"x")], format=tarfile.GNU_FORMAT)
    header = archive[:148] + b" " * 8 + archive[156:512]
    signed = int(np.frombuffer(header, np.int8).sum(dtype=np.int64))
    assert signed != sum(header)
    assert members(tmp_path / "a.tar", archive[:148] + b"%06o\0 " % signed + archive[156:]) == by_tarfile(archive)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    archive = tar_bytes(samples(3))
    whole = members(tmp_path / "a.tar", archive)
    end = 512 * 2 * 6  # six files of a block each
    lengths = [*range(0, len(archive), 512), *np.random.default_rng(0).integers(1, end, 64).tolist(), end + 1023]
    for length in lengths:
        if length >= end + 1024:
            assert members(tmp_path / "a.tar", archive[:length]) == whole  # only padding is missing
            continue
        with pytest.raises(DataError, match=r"^a\.tar: .*damaged, or not copied completely; copy or pack it again$"):
            members(tmp_path / "a.tar", archive[:length])
    # negative control: tarfile takes what is cut between two files for whole
    assert len(by_tarfile(archive[: end // 2])) == 3


def test_flipped_bits_of_headers_are_noticed_or_change_nothing(tmp_path: Path) -> None:
    archive = tar_bytes(samples(4))
    whole = members(tmp_path / "a.tar", archive)
    rng = np.random.default_rng(1)
    noticed = 0
    for _ in range(256):
        damaged = bytearray(archive)
        damaged[1024 * int(rng.integers(8)) + int(rng.integers(512))] ^= 1 << int(rng.integers(8))
        try:
            assert members(tmp_path / "a.tar", bytes(damaged)) == whole
        except DataError:
            noticed += 1
    assert noticed > 250  # all but blanks of the checksum itself


def test_archives_joined_to_one_are_refused(tmp_path: Path) -> None:
    one, two = tar_bytes(samples(2)), tar_bytes(samples(2, first=2))
    with pytest.raises(DataError, match="data after its end at byte 4,096, as joined archives have; keep them apart"):
        members(tmp_path / "a.tar", one + two)
    assert len(by_tarfile(one + two)) == 4  # negative control: half of the files would be missing


def test_what_is_not_a_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^nothing\.tar: no such file"):
        TarReader(tmp_path / "nothing.tar")
