"""Seconds in which a data set's images are listed, with or without the index of `python -m util.data.check`."""

import argparse
import os
import shutil
import time

import numpy as np

from bench.files import make_files
from bench.side import serve
from util.data.index import FileFacts, index_path, write_index
from util.data.splits import load_split

LONG_AGO = 1_600_000_000  # seconds since 1970: folders that have just been changed are not trusted

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--index", action="store_true")
given = parser.parse_args()
folder = make_files()
for place, _, _ in os.walk(folder):
    os.utime(place, (LONG_AGO, LONG_AGO))
if given.index:
    images = load_split(str(folder), "train")
    facts = FileFacts(np.zeros(len(images), np.int64), np.zeros((len(images), 32), np.uint8), {})
    write_index(index_path(folder, "train"), images, facts, split="train", scanned=time.time_ns(), list_file=None)


def measure() -> float:
    begun = time.perf_counter()
    found = load_split(str(folder), "train")
    assert len(found) == 100_000
    return time.perf_counter() - begun


try:
    serve(measure)
finally:
    shutil.rmtree(folder)
