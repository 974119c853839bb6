"""A job of ten images, four of them bad, for tests of its results."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from util.data.images import ImageError
from util.errors import DataError
from util.infer_job import InferJob, Share, run_job
from util.prediction import Prediction

FILES = [
    "a.jpg", 'say "ä", b.jpg', "bad 2.jpg", "two\nlines.jpg", os.fsdecode(b"caf\xe9.jpg"), "bad 5.jpg", "bad 6.jpg",
    "a.jpg", "g\r.jpg", "bad 9\t.jpg",
]  # fmt: skip
NUM_BAD = sum(file.startswith("bad") for file in FILES)
FACTS: dict[str, Any] = {"version": 1, "model": ["x"], "images": len(FILES)}


def answer(place: int) -> Prediction | ImageError:
    file = FILES[place]
    if file.startswith("bad"):
        return ImageError(file, "is empty")
    return {"class_ids": [place, 1], "scores": [0.9, 0.1], "file_name": file, "label_names": ["Ä, b", 'say "c"']}


def predict(places: range) -> Generator[list[Prediction | ImageError], None, None]:
    for start in range(0, len(places), 3):
        yield [answer(place) for place in places[start : start + 3]]


def open_share(output: Path, *, rank: int = 0, processes: int = 1, go_on: bool = True, **facts: Any) -> InferJob:
    return InferJob(str(output), FILES, share=Share(rank, processes), facts=FACTS | facts, go_on=go_on)


def run_whole(output: Path, *, processes: int = 1, go_on: bool = True) -> None:
    """Runs the job's processes one after the other, the first last; all but NUM_BAD images are answered."""
    for rank in reversed(range(processes)):
        job = open_share(output, rank=rank, processes=processes, go_on=go_on)
        if rank:
            run_job(job, predict)
            continue
        with pytest.raises(DataError, match=f"^{NUM_BAD} of {len(FILES)} images could not be read; all are in"):
            run_job(job, predict)
