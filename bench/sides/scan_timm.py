"""Seconds in which timm lists the images of a folder."""

import shutil
import time

from timm.data import create_dataset

from bench.files import make_files
from bench.side import serve

folder = make_files()


def measure() -> float:
    begun = time.perf_counter()
    dataset = create_dataset("", root=str(folder), split="train")
    assert len(dataset) == 100_000
    return time.perf_counter() - begun


try:
    serve(measure)
finally:
    shutil.rmtree(folder)
