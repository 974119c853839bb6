"""Which images a split has: from class folders, list files, tar shards or CIFAR's archives."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from util.data.cifar import load_cifar
from util.data.class_names import MAX_REPORTED, index_classes
from util.data.find_images import find_images
from util.data.image_list import ImageList
from util.data.images import IMAGE_SUFFIXES, is_hidden
from util.data.index import load_indexed
from util.data.list_file import read_list
from util.data.shards import load_shards
from util.errors import DataError, MissingInputError, UsageError, listed


def _subfolders(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if os.path.isdir(e.path) and not is_hidden(e.name))


def _check_class_folders(folder: Path, names: Sequence[str]) -> None:
    """Refuses links to folders above or to nothing, names that are one elsewhere, and names that no text can hold.

    A class that is silently left out, because a disk is not mounted, would give all classes after it other labels.
    """
    broken = sorted(e.name for e in os.scandir(folder) if e.is_symlink() and not os.path.exists(e.path))
    if broken:
        raise DataError(f"{folder}: {listed(broken, MAX_REPORTED)}: a link that leads nowhere; mend or remove it")
    above = {os.path.realpath(folder), *map(os.path.realpath, folder.absolute().parents)}
    loops = [name for name in names if os.path.realpath(folder / name) in above]
    if loops:
        raise DataError(f"{folder}: {listed(loops, MAX_REPORTED)}: a link to a folder above it; remove it")
    not_text = [repr(name) for name in names if any("\ud800" <= character <= "\udfff" for character in name)]
    if not_text:
        raise DataError(f"{folder}: class folders whose names are not UTF-8: {listed(not_text, MAX_REPORTED)}; rename")
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    pairs = [" and ".join(same) for same in alike.values() if len(same) > 1]
    if pairs:
        raise DataError(
            f"{folder}: class folders that differ only in case or in how an accent is written, one folder on other "
            f"systems: {listed(pairs, MAX_REPORTED)}; rename or merge them, or use a list file"
        )


def scan_folder(root: Path, split: str, class_names: Sequence[str] | None = None) -> ImageList:
    """Returns the images of `root/split/<class>/`, class indices by sorted folder names.

    class_names: the classes of training; folders are then matched by name. An unknown folder is a MismatchError, an
    empty one a DataError.
    """
    folder = root / split
    folders = _subfolders(folder)
    if not folders:
        raise DataError(f"{folder}: no class folders; expected {folder}/<class>/<image>")
    _check_class_folders(folder, folders)
    known = list(class_names) if class_names is not None else folders
    index_of = index_classes(folder, folders, known, advice="remove them or use a list file")
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
        raise DataError(f"class folders without images ({suffixes}): {listed(empty, MAX_REPORTED)}; remove or fill")
    return ImageList(root, paths, np.asarray(labels, np.int64), known)


def find_list(root: Path, split: str, list_path: str | None) -> Path | None:
    """Returns the list file that says what a split has; None: its class folders, or an archive of CIFAR.

    list_path: as named or else below `root`. Without one `<split>_list.txt` in `root` counts, for a flat folder.
    """
    if list_path is not None:
        if not root.is_dir():
            raise UsageError(f"{root} is not a folder, in which a list's images could be; leave out --cls_label_path_*")
        path = Path(list_path)
        return root / path if not path.exists() and (root / path).exists() else path
    beside = root / f"{split}_list.txt"
    return beside if (root / split).is_dir() and not _subfolders(root / split) and beside.is_file() else None


def load_split(
    data_dir: str,
    split: str,
    *,
    list_path: str | None = None,
    delimiter: str | None = None,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    use_index: bool = True,
) -> ImageList:
    """Returns the images of `data_dir/split`, of a list file, of tar shards, or of CIFAR.

    data_dir: a folder with `split`; or a CIFAR-10 or CIFAR-100 archive, or a folder with one or with its extracted
        files (see `load_cifar`). CIFAR's training images are its split `train`, its test images `val` or `test`.
    list_path: list file, as named or else below `data_dir`; without one, class folders are read, and for a flat folder
        `<split>_list.txt` in `data_dir`.
    class_names, num_classes: those of training, when they are known.
    use_index: take the images from the index that `python -m util.data.check` wrote, where there is one.
    """
    root = Path(data_dir)
    if not root.exists():
        raise MissingInputError(f"{root}: no such data folder; give it as the first argument or with --data_dir")
    if list_path is None:
        in_shards = load_shards(root, split, class_names=class_names, num_classes=num_classes)
        if in_shards is not None:
            return in_shards
    list_file = find_list(root, split, list_path)
    if use_index:
        indexed = load_indexed(
            root, split, list_file=list_file, delimiter=delimiter, class_names=class_names, num_classes=num_classes
        )
        if indexed is not None:
            return indexed
    if list_file is not None:
        return read_list(list_file, root, num_classes=num_classes, delimiter=delimiter)
    folder = root / split
    if not folder.is_dir():
        return _cifar(root, split, class_names)
    if _subfolders(folder):
        return scan_folder(root, split, class_names)
    raise DataError(
        f"{folder} has no class folders: sort its images into {folder}/<class>/, or list them as `{split}/name label` "
        f"in {root / f'{split}_list.txt'} (or in a file given with --cls_label_path_*)"
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
    index_of = index_classes(found.place, found.class_names, known, advice="these weights are for other data")
    labels = np.asarray([index_of[name] for name in found.class_names], np.int64)[found.labels]
    return ImageList(found.place, found.image_names, labels, known, found.pixels)
