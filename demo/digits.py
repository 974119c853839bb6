"""The handwritten digits as an ImageNet-style folder: `train/<class>/*.png` and `val/<class>/*.png`."""

from pathlib import Path

import numpy as np
from PIL import Image

DIGITS = Path(__file__).with_name("digits.npz")
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD_OUT = 5  # every fifth image of each class, after shuffling, is for evaluation


def write_digits(folder: Path, *, seed: int = 0) -> tuple[int, int]:
    """Writes the 1,797 digits, 8x8 grey, and returns how many are for training and for evaluation.

    The split is stratified: a fifth of each class, chosen by `seed`, goes to `val`. Folders are numbered so that their
    sorted order is the digits' order.
    """
    with np.load(DIGITS, allow_pickle=False) as archive:
        images, labels = archive["images"], archive["labels"]
    rng = np.random.default_rng(seed)
    counts = {"train": 0, "val": 0}
    for digit, name in enumerate(CLASSES):
        for place, index in enumerate(rng.permutation(np.flatnonzero(labels == digit))):
            split = "val" if place % HELD_OUT == 0 else "train"
            target = folder / split / f"{digit}_{name}" / f"{index:04d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            pixels = (images[index].astype(np.uint16) * 255 // 16).astype(np.uint8)  # 0..16 -> 0..255
            Image.fromarray(pixels).save(target)
            counts[split] += 1
    return counts["train"], counts["val"]


def write_even_odd(folder: Path) -> None:
    """Writes list files that label the digits of `write_digits` by whether they are odd, and the names of both classes.

    `train_even_odd.txt` and `val_even_odd.txt`: lines `path label`, 0 even, 1 odd. `even_odd.txt`: lines `id name`.
    """
    for split in ("train", "val"):
        paths = sorted(path.relative_to(folder) for path in (folder / split).rglob("*.png"))
        lines = [f"{path} {int(path.parts[1].partition('_')[0]) % 2}\n" for path in paths]
        (folder / f"{split}_even_odd.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "even_odd.txt").write_text("0 even\n1 odd\n", encoding="utf-8")
