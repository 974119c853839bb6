"""Zip archives whose entries are stored as they are, as PyTorch writes them: entries are views of the file.

Python's `zipfile` reads any archive; this reads those that cannot grow. The directory must lie in the file, each entry
must be uncompressed, unencrypted and lie before the directory, and all entries together must not have more bytes
than the file has, whatever sizes it claims.
"""

import zlib
from struct import unpack_from

from util.errors import DamagedFileError

MAX_ENTRIES = 50_000
_END, _END64, _LOCATOR, _DIRECTORY, _LOCAL = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
_END_SIZE, _MAX_COMMENT, _LOCATOR_SIZE, _DIRECTORY_SIZE, _LOCAL_SIZE = 22, 65535, 20, 46, 30
_ENCRYPTED = 1
_IN_EXTRA = 0xFFFFFFFF  # a number with more than 32 bits stands in a field behind the name


class Entry:
    """A file within the archive: its bytes, unverified, and the CRC-32 that they should have."""

    def __init__(self, name: str, data: memoryview, crc: int) -> None:
        self.name, self.data, self.crc = name, data, crc
        self._is_verified = False

    def verified(self) -> memoryview:
        """Returns the bytes, or raises a DamagedFileError; their checksum is computed once."""
        if not self._is_verified and zlib.crc32(self.data) != self.crc:
            if self.crc == 0:
                raise DamagedFileError(f"its entry {self.name!r} has no checksum: save the file again, with checksums")
            raise DamagedFileError(f"its entry {self.name!r} does not have the checksum that was written with it")
        self._is_verified = True
        return self.data


def read_zip(data: memoryview) -> dict[str, Entry]:
    """Returns the entries by name. Raises a DamagedFileError for anything but whole, uncompressed entries."""
    start, size = _find_directory(data)
    entries: dict[str, Entry] = {}
    position, total = start, 0
    while position < start + size:
        if position + _DIRECTORY_SIZE > start + size or data[position : position + 4] != _DIRECTORY:
            raise DamagedFileError(f"its zip directory is damaged at byte {position}")
        name_size, extra_size, comment_size = unpack_from("<HHH", data, position + 28)
        length = _DIRECTORY_SIZE + name_size + extra_size + comment_size
        if position + length > start + size:
            raise DamagedFileError(f"its zip directory ends within the entry at byte {position}")
        entry = _entry(data, data[position : position + length], name_size, extra_size, limit=start)
        if entry.name in entries or len(entries) == MAX_ENTRIES:
            raise DamagedFileError(f"its zip directory has {entry.name!r} twice, or more than {MAX_ENTRIES} entries")
        entries[entry.name] = entry
        total += len(entry.data)
        position += length
    if total > len(data):
        raise DamagedFileError(f"the entries of the zip archive claim {total} bytes, the file has {len(data)}")
    return entries


def _find_directory(data: memoryview) -> tuple[int, int]:
    """Returns where the directory begins, and its size."""
    tail = bytes(data[-(_END_SIZE + _MAX_COMMENT) :])
    found = tail.rfind(_END)
    if found < 0 or found + _END_SIZE > len(tail):
        raise DamagedFileError("a zip archive without its end: the file was cut off")
    end = len(data) - len(tail) + found
    size, start = unpack_from("<II", data, end + 12)
    locator = end - _LOCATOR_SIZE
    if _IN_EXTRA in (size, start) and locator >= 0 and data[locator : locator + 4] == _LOCATOR:
        (end64,) = unpack_from("<Q", data, locator + 8)
        if end64 + 56 > locator or data[end64 : end64 + 4] != _END64:
            raise DamagedFileError("a zip archive whose end is damaged")
        size, start = unpack_from("<QQ", data, end64 + 40)
    if start + size > end:
        raise DamagedFileError(
            f"a zip archive whose directory claims {size} bytes from byte {start} on, beyond its end"
        )
    return start, size


def _entry(data: memoryview, record: memoryview, name_size: int, extra_size: int, *, limit: int) -> Entry:
    """Returns the entry that a record of the directory describes; its bytes end before `limit`."""
    flags, method = unpack_from("<HH", record, 8)
    crc, stored, size = unpack_from("<III", record, 16)
    (header,) = unpack_from("<I", record, 42)
    name_end = _DIRECTORY_SIZE + name_size
    size, stored, header = _widen((size, stored, header), record[name_end : name_end + extra_size])
    name = str(record[_DIRECTORY_SIZE:name_end], "utf-8", "replace")
    if method or flags & _ENCRYPTED or stored != size:
        raise DamagedFileError(f"its entry {name[:80]!r} is compressed or encrypted, which PyTorch's are not")
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise DamagedFileError(f"its entry {name[:80]!r} has the name of a place outside")
    if header + _LOCAL_SIZE > limit or data[header : header + 4] != _LOCAL:
        raise DamagedFileError(f"its entry {name[:80]!r} begins at byte {header}, where none is")
    local_name, local_extra = unpack_from("<HH", data, header + 26)
    start = header + _LOCAL_SIZE + local_name + local_extra
    if start + size > limit:
        raise DamagedFileError(f"its entry {name[:80]!r} claims {size} bytes from byte {start} on, beyond its place")
    return Entry(name[:300], data[start : start + size], crc)


def _widen(values: tuple[int, int, int], extra: memoryview) -> list[int]:
    """Returns size, stored size and place of an entry, each from the field for large numbers if it is there."""
    position, wide = 0, memoryview(b"")
    while position + 4 <= len(extra):
        kind, length = unpack_from("<HH", extra, position)
        if kind == 1:
            wide = extra[position + 4 : position + 4 + length]
        position += 4 + length
    result = []
    for value in values:
        if value == _IN_EXTRA and len(wide) >= 8:
            (value,), wide = unpack_from("<Q", wide), wide[8:]
        result.append(value)
    return result
