"""Tar archives written by the tests: good ones in every format, and parts of them to change."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

File = tuple[str, bytes]


def tar_bytes(files: Sequence[File | tarfile.TarInfo], *, format: int = tarfile.PAX_FORMAT) -> bytes:
    """Returns an archive of files by name and content, or of members without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for file in files:
            if isinstance(file, tarfile.TarInfo):
                tar.addfile(file)
            else:
                info = tarfile.TarInfo(file[0])
                info.size = len(file[1])
                tar.addfile(info, io.BytesIO(file[1]))
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """Returns a member that is no regular file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def sample(key: str, label: int | str, image: bytes = b"image", suffix: str = ".jpg") -> list[File]:
    """Returns both files of a sample."""
    return [(f"{key}.cls", str(label).encode()), (f"{key}{suffix}", image)]


def samples(count: int, *, first: int = 0, classes: int = 3) -> list[File]:
    """Returns samples `s00`, `s01` ... whose images are that text."""
    return [
        file for i in range(first, first + count) for file in sample(f"s{i:02d}", i % classes, f"s{i:02d}".encode())
    ]


def with_header(archive: bytes, *, at: int = 0, field: int, value: bytes) -> bytes:
    """Returns the archive with other bytes in the header at `at`, and a checksum that agrees with them."""
    header = bytearray(archive[at : at + 512])
    header[field : field + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return archive[:at] + bytes(header) + archive[at + 512 :]


def write_shards(root: Path, *shards: Sequence[File], split: str = "train") -> list[Path]:
    """Writes `<split>-000000.tar` and so on."""
    root.mkdir(parents=True, exist_ok=True)
    paths = [root / f"{split}-{number:06d}.tar" for number in range(len(shards))]
    for path, files in zip(paths, shards, strict=True):
        path.write_bytes(tar_bytes(files))
    return paths
