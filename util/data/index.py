"""The index of a split, which `python -m util.data.check` writes and training and evaluation read instead of scanning.

A file of the form of a checkpoint (`util.weights.container`): it verifies itself, and is written whole or not at all.
It holds the images' paths and labels, each file's size and sha256, which files cannot be read, and when each folder was
last changed. A folder with the same time has the same names in it; any other is listed anew and compared. What changes
inside of files is for `python -m util.data.check --verify`. Imports no paddle.
"""

import hashlib
import logging
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from util.data.class_names import index_classes
from util.data.image_list import ImageList
from util.data.images import is_hidden, is_image_name
from util.data.paths import Paths
from util.errors import DataError, MissingInputError, OutputError, SaveError, WeightsError, listed
from util.files import kind_of
from util.weights.container import read_container, write_container

VERSION = 1
SPOT_CHECKS = 64  # files whose sizes are compared whenever an index is opened
UNSETTLED = 2_000_000_000  # ns; a folder changed so shortly before it was listed may change again within one clock tick
MAX_NAMED = 5

log = logging.getLogger("run.data")


@dataclass(frozen=True)
class FileFacts:
    """What is known about the N files of a split."""

    sizes: np.ndarray  # int64 (N,), bytes; -1: cannot be read at all
    digests: np.ndarray  # uint8 (N, 32), sha256; zeros where it cannot be read at all
    reasons: Mapping[int, str]  # why an image cannot be used, by its place


@dataclass(frozen=True)
class Index:
    """An index as it was read."""

    path: Path
    root: Path
    images: ImageList  # labels count in its own classes
    files: FileFacts
    folders: Paths  # relative to the root
    changed: np.ndarray  # int64 (F,), ns since 1970, when each folder was last changed; 0: not settled then
    folder_of: np.ndarray  # int32 (N,)
    state: dict[str, Any]

    @property
    def advice(self) -> str:
        """The command that writes it anew."""
        split, own = self.state["split"], self.state["list"]
        command = ["python", "-m", "util.data.check", str(self.root), "--split", split]
        if own is not None and own["option"] is not None:
            command += [own["option"], own["path"]]
        return f"check the data again: {shlex.join(command)}"


def index_path(folder: Path, split: str) -> Path:
    """Returns where the index of a split is in a folder."""
    name = re.sub(r"[/\\]+", "-", os.path.normpath(split)).strip("-.") or "images"
    return folder / f"{name}.index.safetensors"


# --- writing


def _folders_of(images: ImageList, split: str, *, from_list: bool) -> list[str]:
    """Returns the folders whose changes matter, relative to the root: a list's own, else all of the split's."""
    if from_list:
        return sorted({path.rpartition("/")[0] for path in images.paths})
    top = images.root / split
    folders = [split.rstrip("/")]
    for entry in sorted(os.scandir(top), key=lambda entry: entry.name):
        if os.path.isdir(entry.path) and not is_hidden(entry.name):
            for where, below, _ in os.walk(entry.path):
                below[:] = [name for name in below if not is_hidden(name)]
                folders.append(os.path.join(split, os.path.relpath(where, top)))
    return folders


def _change_time(folder: Path) -> int:
    """Returns when a folder was last changed, -1 if it is not there."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return -1


def write_index(
    path: Path,
    images: ImageList,
    files: FileFacts,
    *,
    split: str,
    scanned: int,
    list_file: Path | None = None,
    list_option: str | None = None,
    delimiter: str | None = None,
) -> None:
    """Writes the index of a split, or leaves the one that was there. A full disk is a SaveError.

    images: as scanned at `scanned` (ns since 1970). list_file: what they come from, with its delimiter and the option
        that named it; None: class folders.
    """
    folders = _folders_of(images, split, from_list=list_file is not None)
    place = {folder: i for i, folder in enumerate(folders)}
    times = np.array([_change_time(images.root / folder) for folder in folders], np.int64)
    bad = sorted(files.reasons)
    tensors = {
        "paths": Paths.of(images.paths).joined,
        "labels": images.labels.astype(np.int64),
        "sizes": files.sizes,
        "sha256": files.digests,
        "bad": np.array(bad, np.int64),
        "folders": Paths.of(f"./{folder}" for folder in folders).joined,
        "folder_changed": np.where(times < scanned - UNSETTLED, times, 0),
        "folder_of": np.array([place[name.rpartition("/")[0]] for name in images.paths], np.int32),
    }
    state = {
        "index": VERSION,
        "split": split,
        "classes": images.class_names,
        "list": None
        if list_file is None
        else {"path": str(list_file), "option": list_option, "delimiter": delimiter, "sha256": _sha256(list_file)},
        "checked": datetime.now(UTC).isoformat(timespec="seconds"),
        "reasons": [files.reasons[i] for i in bad],
    }
    try:
        write_container(path, tensors, state)
    except SaveError as error:
        reason = str(error).partition("; earlier checkpoints")[0]
        raise SaveError(f"{reason}; make room or choose another --output, and run again") from None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- reading


def has_index(path: Path, root: Path) -> bool:
    """Returns whether an index is there. What is no file, or a link to nothing or in a circle, is a DataError."""
    if not os.path.lexists(path):
        return False
    try:
        kind = kind_of(path)
    except MissingInputError as error:
        raise DataError(f"{error}; {_anew(root)}") from None
    if kind == "nothing":
        raise DataError(f"{path}: a link that leads nowhere; {_anew(root)}")
    if kind != "file":
        raise DataError(f"{path}: expected an index, which is a file; {_anew(root)}")
    return True


def check_index_place(path: Path) -> None:
    """Refuses a place where no index can be written, since something else than a file or a link is there already."""
    if path.exists() and not path.is_file() and not path.is_symlink():
        raise OutputError(f"{path}: is not a file; move it away, or choose another place for the index")


def read_index(path: Path, root: Path) -> Index:
    """Returns an index, verified. One that is damaged, or no index, is a DataError that says what to do."""
    try:
        content = read_container(path)
    except WeightsError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise DataError(f"{path}: the index cannot be used: {reason}; {_anew(root)}") from None
    state, tensors = content.state, content.tensors
    if state.get("index") != VERSION:
        version = state.get("index")
        what = "no index of images" if version is None else f"an index of version {version}, this code reads {VERSION}"
        raise DataError(f"{path}: {what}; {_anew(root)}")
    images = ImageList(root, Paths(tensors["paths"]), tensors["labels"], state["classes"], bad_at=tensors["bad"])
    reasons = dict(zip(tensors["bad"].tolist(), state["reasons"], strict=True))
    files = FileFacts(tensors["sizes"], tensors["sha256"], reasons)
    folders = Paths(tensors["folders"])
    return Index(path, root, images, files, folders, tensors["folder_changed"], tensors["folder_of"], state)


def _anew(root: Path) -> str:
    return f"delete it, or write it anew: python -m util.data.check {shlex.quote(str(root))}"


def load_indexed(
    root: Path,
    split: str,
    *,
    list_file: Path | None,
    delimiter: str | None,
    class_names: Sequence[str] | None,
    num_classes: int | None,
) -> ImageList | None:
    """Returns the images of a split from its index, if it has one: the same as a scan would give.

    Looked for below `root`, and beside the list file. The index of another list does not count. One that is
    damaged, or does not go with the folders any more, is a DataError.
    """
    for folder in dict.fromkeys([root] if list_file is None else [root, list_file.parent]):
        path = index_path(folder, split)
        if not has_index(path, root):
            continue
        index = read_index(path, root)
        if not _is_about(index, split, list_file, delimiter):
            log.info(f"{path} is the index of another list or folder; not used")
            continue
        images = index.images
        if list_file is not None and num_classes is not None and images.labels.max() >= num_classes:
            return None  # reading the list says which lines
        check_folders(index)
        check_sizes(index)
        if class_names is not None and images.class_names is not None:
            images = _renumbered(images, root / split, class_names)
        log.info(f"{len(images):,} images from {path}, checked on {index.state['checked'][:10]}")
        if images.bad:
            log.warning(f"{images.bad:,} of them could not be read then; {path.name} says which")
        return images
    return None


def _is_about(index: Index, split: str, list_file: Path | None, delimiter: str | None) -> bool:
    own = index.state["list"]
    if list_file is None:
        return own is None and os.path.join(index.state["split"], "x") == os.path.join(split, "x")
    if own is None or not list_file.is_file():
        return False
    return own["delimiter"] == delimiter and own["sha256"] == _sha256(list_file)


def _renumbered(images: ImageList, source: Path, class_names: Sequence[str]) -> ImageList:
    """Returns the images labelled by the classes of training; an unknown class is a MismatchError."""
    folders = images.class_names or []
    index_of = index_classes(source, folders, class_names, advice="remove them or use a list file")
    labels = np.array([index_of[name] for name in folders], np.int64)[images.labels]
    return ImageList(images.root, images.paths, labels, list(class_names), bad_at=images.bad_at)


# --- whether it still goes with the files


def check_folders(index: Index) -> None:
    """Raises a DataError that names what was added or removed since, going by folders that have changed."""
    folders = [folder.removeprefix("./") for folder in index.folders]
    stale = [
        i for i, folder in enumerate(folders)
        if index.changed[i] == 0 or _change_time(index.root / folder) != index.changed[i]
    ]  # fmt: skip
    added, removed = _differences(index, folders, stale) if stale else ([], [])
    if added or removed:
        changes = [f"{len(names):,} {what} ({listed(names, MAX_NAMED)})" for what, names in
                   (("added", added), ("removed", removed)) if names]  # fmt: skip
        raise DataError(
            f"{index.path}: since {index.state['checked']} files were {' and '.join(changes)}; {index.advice}"
        )


def _differences(index: Index, folders: Sequence[str], stale: Sequence[int]) -> tuple[list[str], list[str]]:
    """Returns which images and folders of the stale folders are new, and which are gone."""
    known: dict[int, set[str]] = {i: set() for i in stale}
    for place in np.flatnonzero(np.isin(index.folder_of, np.array(stale))).tolist():
        known[int(index.folder_of[place])].add(index.images.paths[place].rpartition("/")[2])
    from_list = index.state["list"] is not None
    below: dict[str, set[str]] = {}
    for folder in folders[1:]:
        parent, _, name = folder.rpartition("/")
        below.setdefault(parent, set()).add(name)
    added: list[str] = []
    removed: list[str] = []
    for i in stale:
        folder = folders[i]
        expected = known[i] if from_list else known[i] | {f"{name}/" for name in below.get(folder, ())}
        found = _names_in(index.root / folder, is_top=i == 0, all_files=from_list)
        removed += [os.path.join(folder, name) for name in sorted(expected - found)]
        if not from_list:
            added += [os.path.join(folder, name) for name in sorted(found - expected)]
    return added, removed


def _names_in(folder: Path, *, is_top: bool, all_files: bool) -> set[str]:
    """Returns the images in a folder, and its folders with a slash behind; nothing if it is gone.

    is_top: the split's folder, in which folders alone count, and links to folders, too. all_files: as lists have them.
    """
    if all_files:
        return set(os.listdir(folder)) if folder.is_dir() else set()
    names = set()
    for entry in os.scandir(folder) if folder.is_dir() else ():
        if os.path.isdir(entry.path):
            if not is_hidden(entry.name) and (is_top or not entry.is_symlink()):
                names.add(f"{entry.name}/")
        elif is_image_name(entry.name) and not is_top:
            names.add(entry.name)
    return names


def check_sizes(index: Index) -> None:
    """Raises a DataError if one of some files, spread evenly over the split, is gone or has another size."""
    count = len(index.images)
    for place in np.unique(np.linspace(0, count - 1, min(SPOT_CHECKS, count)).astype(int)).tolist():
        known = int(index.files.sizes[place])
        if known < 0:
            continue
        path = index.images.path(place)
        try:
            size = os.stat(path).st_size
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}, but {index.path.name} has it; {index.advice}") from None
        if size != known:
            raise DataError(
                f"{path}: has {size:,} bytes, but {known:,} when it was checked on {index.state['checked']}; "
                f"{index.advice}"
            )
