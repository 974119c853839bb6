"""timm's data pipeline: JPEG files -> normalised tensors, of the CvT recipe or of evaluation. Images a second.

As pipeline_ours.py measures. Pictures are read as timm's ImageDataset reads them: Image.open(file).convert("RGB").
"""

import argparse
import time
from collections.abc import Callable

import torch
from PIL import Image
from timm.data import create_transform

from bench.photographs import shared_photographs
from bench.side import serve

BATCH = 32
EPOCH = 640  # images of a measurement with workers


class Photographs(torch.utils.data.Dataset):  # type: ignore[misc]
    """The photographs, again and again, as training or evaluation sees them."""

    def __init__(self, what: str, count: int) -> None:
        self.files = shared_photographs()
        self.count = count
        recipe = (
            {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "re_mode": "pixel"} if what == "train" else {}
        )
        self.transform = create_transform(
            224, is_training=what == "train", interpolation="bicubic", mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225), crop_pct=0.875, **recipe,
        )  # fmt: skip

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with open(self.files[index % len(self.files)], "rb") as file:
            image = Image.open(file).convert("RGB")
        try:
            return self.transform(image), 0
        except ValueError:  # one in 600: timm posterises to 0 bits, which Pillow 13 refuses
            return self[index]


def alone(data: Photographs) -> Callable[[], float]:
    """Returns what measures images a second of processor time, in this process."""

    def measure() -> float:
        begun = time.process_time()
        for i in range(len(data)):
            data[i]
        return len(data) / (time.process_time() - begun)

    return measure


def with_workers(data: Photographs, num_workers: int) -> Callable[[], float]:
    """Returns what measures images a second through PyTorch's loader; its first batches are not counted."""
    loader = torch.utils.data.DataLoader(data, BATCH, num_workers=num_workers, persistent_workers=True, shuffle=True)
    warm = 4 * num_workers  # more batches than the workers make in advance

    def measure() -> float:
        begun = 0.0
        for i, _ in enumerate(loader):
            if i == warm:
                begun = time.perf_counter()
        return (len(loader) - warm - 1) * BATCH / (time.perf_counter() - begun)

    return measure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("train", "eval"))
    parser.add_argument("--workers", type=int, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.workers is None:
        serve(alone(Photographs(given.what, len(shared_photographs()))))
    else:
        serve(with_workers(Photographs(given.what, EPOCH * given.workers), given.workers))
