"""Small data sets made by the tests, in the layouts that users have."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_picture(path: Path, *, seed: int, size: tuple[int, int] = (40, 32)) -> None:
    """Writes a smooth colour picture, width and height `size`; JPEG or PNG by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    picture.save(path, "PNG" if path.suffix.lower() == ".png" else "JPEG", quality=90)


def write_tree(root: Path, *, num_classes: int = 3, train: int = 8, val: int = 4, flat_val: bool = False) -> Path:
    """Writes `root/train/<wnid>/*.JPEG` and `val`, each number of images a class, with spaces in some names.

    flat_val: all evaluation images in one folder, listed in `val_list.txt`, as ImageNet comes.
    """
    lines = []
    for label in range(num_classes):
        wnid = f"n{label + 1440764:08d}"
        for i in range(train):
            write_picture(root / "train" / wnid / f"{wnid} {i}.JPEG", seed=1000 * label + i)
        for i in range(val):
            name = f"val {label} {i}.JPEG"
            folder = root / "val" if flat_val else root / "val" / wnid
            write_picture(folder / name, seed=1000 * label + 500 + i)
            lines.append(f"val/{name} {label}\n")
    if flat_val:
        (root / "val_list.txt").write_text("".join(lines), encoding="utf-8")
    return root
