"""What the classes of a data set are called."""

import re
from collections.abc import Sequence
from pathlib import Path

from util.errors import DataError, MismatchError, listed
from util.files import read_text

MAX_REPORTED = 10  # problems named in one error


def index_classes(source: Path, found: Sequence[str], known: Sequence[str], *, advice: str) -> dict[str, int]:
    """Returns the index of each known class; one that was found at `source` and is not known is a MismatchError."""
    index_of = {name: i for i, name in enumerate(known)}
    unknown = [name for name in found if name not in index_of]
    if unknown:
        raise MismatchError(
            f"{source}: the classes {listed(unknown, MAX_REPORTED)} are not among the {len(known)} classes of "
            f"training; {advice}"
        )
    return index_of


def read_class_names(path: Path, num_classes: int) -> list[str]:
    """Returns the names of a file with a line `id name` each, ids 0 to num_classes - 1, in any order."""
    text = read_text(path)
    names: dict[int, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        key, _, name = line.strip().partition(" ")
        if not re.fullmatch(r"[0-9]{1,9}", key) or not name.strip():
            raise DataError(f"{path}:{number}: expected `id name`, got {line.strip()[:60]!r}")
        if int(key) in names:
            raise DataError(f"{path}:{number}: id {int(key)} stands twice")
        names[int(key)] = name.strip()
    if sorted(names) != list(range(num_classes)):
        raise DataError(f"{path}: expected the ids 0 to {num_classes - 1}, once each; got {len(names)} names")
    return [names[i] for i in range(num_classes)]


IMAGENET_NAMES = Path(__file__).resolve().parents[2] / "demo" / "imagenet1k_label_list.txt"


def readable_names(class_names: Sequence[str] | None, num_classes: int, names_file: str | None) -> list[str]:
    """Returns what to call the classes: a file's names, ImageNet's for 1000 wnids, the folders', or the numbers."""
    if names_file is not None:
        return read_class_names(Path(names_file), num_classes)
    wnids = class_names is None or all(re.fullmatch(r"n\d{8}", name) for name in class_names)
    if num_classes == 1000 and wnids and IMAGENET_NAMES.is_file():
        return read_class_names(IMAGENET_NAMES, num_classes)
    return list(class_names) if class_names is not None else [str(i) for i in range(num_classes)]
