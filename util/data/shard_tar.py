"""Where the files of an uncompressed tar archive lie, read from its headers alone.

Python's `tarfile` accepts an archive that was cut off between two members, joined to another, or holds links; samples
would go missing without a word. Here each of these is an error. Formats: POSIX.1-1988 (ustar) and 2001 (pax), and GNU's
long names and large numbers (https://www.gnu.org/software/tar/manual/html_node/Standard.html). Imports no paddle.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from util.errors import DataError
from util.files import kind_of

BLOCK = 512
WINDOW = 4096  # bytes read at once: a header, what a small file holds, and the next header
MAX_EXTENDED = 1 << 20  # bytes of an extended header or a long name
MAX_PADDING = 1 << 20  # bytes of zeros after the end; usual are 10 kB

FILES, FOLDER = (b"0", b"\0", b"7"), b"5"
EXTENDED, GLOBAL, LONG_NAME, LONG_LINK = b"x", b"g", b"L", b"K"
REFUSED = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a FIFO",
    b"S": "a sparse file", b"M": "a part of a file that another archive continues",
}  # fmt: skip
DAMAGED = "damaged, or not copied completely; copy or pack it again"
COMPRESSED = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))


@dataclass(frozen=True)
class Member:
    """A regular file of an archive: its name without `./` in front, and where its data is, in bytes."""

    name: str
    offset: int
    size: int


class TarReader:
    """An open archive. What is wrong with it is a DataError, `SHARD: what; what to do`.

    Use it in a `with`; `members` goes through the headers, `read` gives bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        kind = kind_of(path)
        if kind != "file":
            what = "no such file" if kind == "nothing" else "is a folder" if kind == "folder" else "is no regular file"
            raise self.fault(f"{what}; expected a tar archive")
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise self.fault(f"cannot be read: {error.strerror}") from None
        stat = os.fstat(self._file)
        self.size, self.mtime_ns = stat.st_size, stat.st_mtime_ns
        self._start, self._window = 0, b""

    def __enter__(self) -> "TarReader":
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._file)

    def fault(self, what: str) -> DataError:
        """Returns the error that says what is wrong with this archive."""
        return DataError(f"{self.path.name}: {what}")

    def read(self, offset: int, size: int) -> bytes:
        """Returns bytes of the archive, fewer at its end."""
        place = offset - self._start
        if place < 0 or place + size > len(self._window):
            try:
                self._window = os.pread(self._file, max(size, WINDOW), offset)
            except OSError as error:
                raise self.fault(f"cannot be read at byte {offset}: {error.strerror}") from None
            self._start, place = offset, 0
        return self._window[place : place + size]

    def members(self) -> Iterator[Member]:
        """Yields the regular files, in order; folders are left out. Ends with the archive's end, or with an error."""
        offset = 0
        pax: dict[str, str] = {}
        long_name: str | None = None
        while (header := self._header(offset)) is not None:
            kind = header[156:157]
            size = self._number(header[124:136], offset)
            offset += BLOCK
            if kind in (EXTENDED, GLOBAL, LONG_NAME, LONG_LINK):
                data = self._extension(offset, size)
                if kind == EXTENDED:
                    pax = self._records(data, offset)
                elif kind == GLOBAL:
                    self._check_global(self._records(data, offset))
                elif kind == LONG_NAME:
                    long_name = self._text(data.split(b"\0", 1)[0])
                offset += _padded(size)
                continue
            name = pax.get("path") or long_name or self._short_name(header)
            if "size" in pax:
                size = self._pax_size(pax["size"], name)
            if kind == b"\0" and name.endswith("/"):  # before POSIX, a folder was told by its name
                kind = FOLDER
            self._check(name, kind, pax)
            if kind == FOLDER:
                size = 0
            elif offset + size > self.size:
                raise self.fault(f"{name}: ends at byte {offset + size:,} of {self.size:,}: {DAMAGED}")
            else:
                yield Member(name.removeprefix("./"), offset, size)
            offset += _padded(size)
            pax, long_name = {}, None

    def _header(self, offset: int) -> bytes | None:
        """Returns the header at `offset`, checked; None where the archive ends as it should."""
        header = self.read(offset, BLOCK)
        if offset == 0:
            for magic, method in COMPRESSED:
                if header.startswith(magic):
                    raise self.fault(f"is compressed ({method}), so that no image can be read alone; decompress it")
        if len(header) < BLOCK:
            raise self.fault(f"stops at byte {offset + len(header):,} without a tar's end: {DAMAGED}")
        if not header.strip(b"\0"):
            self._check_end(offset)
            return None
        said = self._number(header[148:156], offset)
        plain = header[:148] + b" " * 8 + header[156:]
        if said != sum(plain) and said != sum(plain) - 256 * sum(
            byte > 127 for byte in plain
        ):  # old ones: signed bytes
            what = "is no tar archive" if offset == 0 else f"no tar header at byte {offset:,}"
            raise self.fault(f"{what} (its checksum is wrong): {DAMAGED}")
        return header

    def _check_end(self, offset: int) -> None:
        """Two empty blocks end an archive, and only zeros may follow: what stands behind would never be read."""
        rest = self.size - offset
        if rest < 2 * BLOCK:
            raise self.fault(f"stops at byte {self.size:,} within a tar's end: {DAMAGED}")
        if rest > MAX_PADDING or self.read(offset, rest).strip(b"\0"):
            raise self.fault(f"has data after its end at byte {offset:,}, as joined archives have; keep them apart")

    def _number(self, field: bytes, offset: int) -> int:
        if field[0] == 0x80:  # GNU's form of what eight octal digits cannot hold
            return int.from_bytes(field[1:], "big")
        digits = field.strip(b" \0")
        if not re.fullmatch(rb"[0-7]*", digits):
            what = "is no tar archive" if offset == 0 else f"no tar header at byte {offset:,}"
            raise self.fault(f"{what} (a number is wrong): {DAMAGED}")
        return int(digits or b"0", 8)

    def _extension(self, offset: int, size: int) -> bytes:
        if size > MAX_EXTENDED or offset + size > self.size:
            raise self.fault(f"an extended header of {size:,} bytes at byte {offset:,}: {DAMAGED}")
        return self.read(offset, size)

    def _records(self, data: bytes, offset: int) -> dict[str, str]:
        """Returns the values of an extended header by keyword: records `length keyword=value\\n`."""
        found: dict[str, str] = {}
        place = 0
        while place < len(data):
            match = re.match(rb"([1-9][0-9]{0,6}) ([^=\n]+)=", data[place : place + 256])
            end = place + int(match[1]) if match else 0
            if match is None or end > len(data) or end <= place + len(match[0]) or data[end - 1] != 0x0A:
                raise self.fault(f"an extended header at byte {offset:,} is wrong: {DAMAGED}")
            keyword = self._text(match[2])
            if keyword in ("path", "size") or keyword.startswith("GNU.sparse"):
                found[keyword] = self._text(data[place + len(match[0]) : end - 1])
            place = end
        return found

    def _check_global(self, records: dict[str, str]) -> None:
        if records:
            raise self.fault(f"a global header sets {', '.join(records)} for all files; pack it again")

    def _pax_size(self, text: str, name: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise self.fault(f"{name}: a size of {text[:20]!r}: {DAMAGED}")
        return int(text)

    def _short_name(self, header: bytes) -> str:
        name = header[:100].split(b"\0", 1)[0]
        prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""  # GNU has times there
        return self._text(prefix + b"/" + name if prefix else name)

    def _text(self, name: bytes) -> str:
        try:
            return name.decode("utf-8")
        except UnicodeDecodeError:
            raise self.fault(f"{name[:60]!r}: the name is not UTF-8; rename it and pack again") from None

    def _check(self, name: str, kind: bytes, pax: dict[str, str]) -> None:
        if any(keyword.startswith("GNU.sparse") for keyword in pax):
            kind = b"S"
        if kind not in FILES and kind != FOLDER:
            what = REFUSED.get(kind, f"of the unknown type {kind!r}")
            raise self.fault(f"{name}: is {what}; pack it again with regular files alone")
        if not name or "\0" in name or name.startswith("/") or ".." in name.split("/"):
            raise self.fault(f"{name!r}: the name must stay inside the archive; pack it again")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
