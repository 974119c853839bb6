"""Stands in front of the operations of `util.storage`: records them, kills at one of them, or lets them fail.

`states_after_power_loss` plays a record back and returns what a disk may hold that had kept only what was synced.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from util import storage

OPERATIONS = ("create", "write", "sync", "close", "replace", "link", "unlink", "sync_folder")


class Killed(BaseException):
    """The process is dead: nothing catches this, and no operation works any more."""


@dataclass(frozen=True)
class Operation:
    """One operation: `names` of files, the number of the file that a descriptor belongs to, the bytes written."""

    kind: str
    names: tuple[str, ...] = ()
    file: int = -1
    data: bytes = b""


@dataclass
class FaultyStorage:
    """Operations in front of those of `util.storage`.

    before: is called with each operation's number and kind, and may raise; a write that it kills writes one half.
    """

    before: Callable[[int, str], None] = lambda number, kind: None
    record: list[Operation] = field(default_factory=list)
    _open: dict[int, int] = field(default_factory=dict)  # descriptor -> number of the file
    _files: int = 0
    _is_dead: bool = False

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Puts these operations in place of the storage's; nothing is really synced, which would take its time."""
        for kind in OPERATIONS:
            monkeypatch.setattr(storage, kind, self._guarded(kind, getattr(self, f"_{kind}")))

    def _guarded(self, kind: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any) -> Any:
            if self._is_dead:
                raise Killed
            try:
                self.before(len(self.record), kind)
            except Killed:
                self._die(kind, arguments)
                raise
            return operation(*arguments)

        return guarded

    def _die(self, kind: str, arguments: tuple[Any, ...]) -> None:
        if kind == "write":
            os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
        for descriptor in self._open:
            os.close(descriptor)
        self._is_dead = True

    def _create(self, path: Path) -> int:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._files += 1
        self._open[descriptor] = self._files
        self.record.append(Operation("create", (path.name,), self._files))
        return descriptor

    def _write(self, descriptor: int, data: memoryview) -> int:
        if descriptor in self._open:
            self.record.append(Operation("write", file=self._open[descriptor], data=bytes(data)))
        return os.write(descriptor, data)

    def _sync(self, descriptor: int) -> None:
        self.record.append(Operation("sync", file=self._open[descriptor]))

    def _close(self, descriptor: int) -> None:
        os.close(descriptor)
        self.record.append(Operation("close", file=self._open.pop(descriptor, -1)))

    def _replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)
        self.record.append(Operation("replace", (source.name, target.name)))

    def _link(self, source: Path, target: Path) -> None:
        os.link(source, target)
        self.record.append(Operation("link", (source.name, target.name)))

    def _unlink(self, path: Path) -> None:
        os.unlink(path)
        self.record.append(Operation("unlink", (path.name,)))

    def _sync_folder(self, path: Path) -> None:
        self.record.append(Operation("sync_folder"))


def kill_at(number: int) -> Callable[[int, str], None]:
    """Returns a `before` that kills at operation `number`."""

    def before(current: int, kind: str) -> None:
        if current == number:
            raise Killed

    return before


def fail_from(number: int, code: int, *, times: int) -> Callable[[int, str], None]:
    """Returns a `before` that lets `times` operations fail from `number` on; closing and removing always work."""
    failures: list[int] = []

    def before(current: int, kind: str) -> None:
        if current >= number and len(failures) < times and kind not in ("close", "unlink"):
            failures.append(current)
            raise OSError(code, os.strerror(code))

    return before


# --- power loss


def states_after_power_loss(record: list[Operation]) -> Iterator[dict[str, bytes]]:
    """Returns what the folder may hold when the power fails after these operations: name -> content.

    Of changed names, any number of the first since the folder was last synced may have arrived. What was written and
    not synced is there, missing, cut off in the middle, or zeros.
    """
    content: dict[int, bytes] = {}
    synced: dict[int, bytes] = {}
    arrived: dict[str, int] = {}
    pending: list[Operation] = []
    for operation in record:
        if operation.kind == "create":
            content[operation.file] = synced[operation.file] = b""
        elif operation.kind == "write":
            content[operation.file] += operation.data
        elif operation.kind == "sync":
            synced[operation.file] = content[operation.file]
        if operation.kind == "sync_folder":
            for earlier in pending:
                _rename(arrived, earlier)
            pending = []
        elif operation.names:
            pending.append(operation)
    for count in range(len(pending) + 1):
        names = dict(arrived)
        for operation in pending[:count]:
            _rename(names, operation)
        for damage in (_complete, _dropped, _cut, _zeros):
            yield {name: damage(content[file], synced[file]) for name, file in names.items()}


def _rename(names: dict[str, int], operation: Operation) -> None:
    with contextlib.suppress(KeyError):  # removing what was never there
        if operation.kind == "create":
            names[operation.names[0]] = operation.file
        elif operation.kind == "unlink":
            del names[operation.names[0]]
        elif operation.kind == "replace":
            source, target = operation.names
            if names[source] != names.get(target):  # two names of one file: renaming does nothing
                names[target] = names.pop(source)
        elif operation.kind == "link":
            names[operation.names[1]] = names[operation.names[0]]


def _complete(content: bytes, synced: bytes) -> bytes:
    return content


def _dropped(content: bytes, synced: bytes) -> bytes:
    return synced


def _cut(content: bytes, synced: bytes) -> bytes:
    return content[: (len(synced) + len(content)) // 2]


def _zeros(content: bytes, synced: bytes) -> bytes:
    return synced + bytes(len(content) - len(synced))
