"""Which images a split has: from class folders, list files or CIFAR's archives."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from util.data.cifar import load_cifar
from util.data.image_list import ImageList
from util.data.images import IMAGE_SUFFIXES
from util.errors import DataError, MismatchError, MissingInputError, UsageError
from util.files import read_text

MAX_REPORTED = 10  # problems of a list file or a folder named in one error


def _subfolders(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))


def find_images(folder: str | Path) -> list[str]:
    """Returns the image files below a folder, relative to it, sorted; hidden files and folders are left out."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        relative = os.path.relpath(where, folder)
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                found.append(name if relative == "." else os.path.join(relative, name))
    return sorted(found)


def _index_classes(source: Path, found: Sequence[str], known: Sequence[str], *, advice: str) -> dict[str, int]:
    """Returns the index of each known class; one that was found and is not known is a MismatchError."""
    index_of = {name: i for i, name in enumerate(known)}
    unknown = [name for name in found if name not in index_of]
    if unknown:
        raise MismatchError(
            f"{source}: the classes {', '.join(unknown[:MAX_REPORTED])} are not among the {len(known)} classes of "
            f"training; {advice}"
        )
    return index_of


def scan_folder(root: Path, split: str, class_names: Sequence[str] | None = None) -> ImageList:
    """Returns the images of `root/split/<class>/`, class indices by sorted folder names.

    class_names: the classes of training; folders are then matched by name. An unknown folder is a MismatchError, an
    empty one a DataError.
    """
    folder = root / split
    folders = _subfolders(folder)
    if not folders:
        raise DataError(f"{folder}: no class folders; expected {folder}/<class>/<image>")
    known = list(class_names) if class_names is not None else folders
    index_of = _index_classes(folder, folders, known, advice="remove them or use a list file")
    paths: list[str] = []
    labels: list[int] = []
    empty = []
    for name in folders:
        images = find_images(folder / name)
        if not images:
            empty.append(str(folder / name))
        paths.extend(os.path.join(split, name, image) for image in images)
        labels.extend([index_of[name]] * len(images))
    if empty:
        suffixes = " ".join(IMAGE_SUFFIXES)
        raise DataError(f"class folders without images ({suffixes}): {', '.join(empty[:MAX_REPORTED])}; remove or fill")
    return ImageList(root, paths, np.asarray(labels, np.int64), known)


def read_list(path: Path, root: Path, *, num_classes: int | None = None, delimiter: str | None = None) -> ImageList:
    """Returns the images of a list file, a line `relative/path label` each, paths relative to `root`.

    A line is split once, from the right, at white space or at `delimiter`. Blank lines, CRLF and a BOM are accepted.
    num_classes: labels must be below it. All faults are collected into one DataError, as file:line.
    """
    text = read_text(path)
    paths: list[str] = []
    labels: list[int] = []
    lines: list[int] = []
    faults: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if not line:
            continue
        fields = line.rsplit(delimiter, 1)
        fault = _line_fault(fields, num_classes)
        if fault:
            faults.append(f"{path}:{number}: {fault}")
            continue
        paths.append(fields[0].strip())
        labels.append(int(fields[1]))
        lines.append(number)
    faults += _missing_files(path, root, paths, lines)
    faults += _labelled_twice(path, paths, labels, lines)
    if faults:
        more = f" (and {len(faults) - MAX_REPORTED} more)" if len(faults) > MAX_REPORTED else ""
        raise DataError("; ".join(faults[:MAX_REPORTED]) + more)
    if not paths:
        raise DataError(f"{path}: lists no images")
    return ImageList(root, paths, np.asarray(labels, np.int64), None)


def _line_fault(fields: list[str], num_classes: int | None) -> str | None:
    if len(fields) != 2:
        return f"expected `path label`, got {fields[0]!r}"
    name, label = fields
    if not re.fullmatch(r"[0-9]{1,9}", label.strip()):
        return f"the label must be an integer of at least 0, got {label.strip()!r}"
    if num_classes is not None and int(label) >= num_classes:
        return f"label {int(label)} is outside the {num_classes} classes (0 to {num_classes - 1})"
    if "\0" in name:
        return f"the path has a null character, {name!r}"
    if os.path.isabs(name) or ".." in Path(name).parts:
        return f"the path must stay inside data_dir, got {name!r}"
    return None


def _labelled_twice(list_path: Path, paths: list[str], labels: list[int], lines: list[int]) -> list[str]:
    """An image may stand in a list several times, but not with several labels."""
    first_place: dict[str, int] = {}
    faults = []
    for i, name in enumerate(paths):
        plain = os.path.normpath(name) if "./" in name or "//" in name else name  # the rare ones, for its cost
        first = first_place.setdefault(plain, i)
        if labels[first] != labels[i]:
            other = f"but {labels[first]} in line {lines[first]}"
            faults.append(f"{list_path}:{lines[i]}: {name} has label {labels[i]}, {other}")
    return faults


def _missing_files(list_path: Path, root: Path, paths: list[str], lines: list[int]) -> list[str]:
    """One listing a folder instead of a million calls of stat."""
    listings: dict[str, set[str]] = {}
    faults = []
    for name, number in zip(paths, lines, strict=True):
        folder, file = os.path.split(name)
        if folder not in listings:
            try:
                listings[folder] = set(os.listdir(root / folder))
            except OSError:
                listings[folder] = set()
        if file not in listings[folder]:
            faults.append(f"{list_path}:{number}: {root / name}: no such file")
    return faults


def load_split(
    data_dir: str,
    split: str,
    *,
    list_path: str | None = None,
    delimiter: str | None = None,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
) -> ImageList:
    """Returns the images of `data_dir/split`, of a list file, or of CIFAR.

    data_dir: a folder with `split`; or a CIFAR-10 or CIFAR-100 archive, or a folder with one or with its extracted
        files (see `load_cifar`). CIFAR's training images are its split `train`, its test images `val` or `test`.
    list_path: list file, as named or else below `data_dir`; without one, class folders are read, and for a flat folder
        `<split>_list.txt` in `data_dir`.
    class_names, num_classes: those of training, when they are known.
    """
    root = Path(data_dir)
    if not root.exists():
        raise MissingInputError(f"{root}: no such data folder; give it as the first argument or with --data_dir")
    if list_path is not None:
        if not root.is_dir():
            raise UsageError(f"{root} is not a folder, in which a list's images could be; leave out --cls_label_path_*")
        path = Path(list_path)
        if not path.exists() and (root / path).exists():
            path = root / path
        return read_list(path, root, num_classes=num_classes, delimiter=delimiter)
    folder = root / split
    if not folder.is_dir():
        return _cifar(root, split, class_names)
    if _subfolders(folder):
        return scan_folder(root, split, class_names)
    beside = root / f"{split}_list.txt"
    if beside.is_file():
        return read_list(beside, root, num_classes=num_classes, delimiter=delimiter)
    raise DataError(
        f"{folder} has no class folders: sort its images into {folder}/<class>/, or list them as `{split}/name label` "
        f"in {beside} (or in a file given with --cls_label_path_*)"
    )


def _cifar(root: Path, split: str, class_names: Sequence[str] | None) -> ImageList:
    """Returns a split of CIFAR; what else a folder without `split` needs is a MissingInputError."""
    found = load_cifar(root, train=split == "train")
    if found is None and not root.is_dir():
        raise DataError(f"{root}: neither a folder nor an archive of CIFAR-10 or CIFAR-100")
    if found is None:
        raise MissingInputError(
            f"{root / split}: no such folder; name the split, give its list with --cls_label_path_*, or split class "
            f"folders with python -m util.data.split {root}"
        )
    if split not in ("train", "val", "test"):
        raise UsageError(f"{found.place}: CIFAR has the splits train and test (also called val); got {split}")
    known = list(class_names) if class_names is not None else found.class_names
    index_of = _index_classes(found.place, found.class_names, known, advice="these weights are for other data")
    labels = np.asarray([index_of[name] for name in found.class_names], np.int64)[found.labels]
    return ImageList(found.place, found.image_names, labels, known, found.pixels)
