"""Each image's result, as predict.py writes its own, with what the label adds."""

from collections.abc import Iterator, Sequence
from typing import NotRequired

from util.evaluation.results import ImageResults
from util.prediction import Prediction


class ImageRecord(Prediction):
    """What is known about one image: `class_ids`, `scores` and `label_names` are those of the best five classes."""

    checkpoint: NotRequired[str]  # with several checkpoints
    label: int
    predicted: int | None  # null, as all below, if the image could not be read
    correct: bool
    score: float | None  # of `predicted`, in [0, 1]
    label_score: float | None  # in [0, 1]
    loss: float | None


def image_records(
    results: ImageResults, *, files: Sequence[str], class_names: Sequence[str], checkpoint: str | None = None
) -> Iterator[ImageRecord]:
    """Yields each image's record in the order of the split.

    results: with the model's classes, which `class_names` names. checkpoint: stands first in each record if given.
    """
    is_readable = results.is_readable
    for i, file in enumerate(files):
        known = bool(is_readable[i])
        ids, scores = (values[i].tolist() if known else [] for values in (results.top_ids, results.top_scores))
        label = int(results.labels[i])
        record = ImageRecord(
            file_name=file,
            label=label,
            predicted=ids[0] if known else None,
            correct=known and ids[0] == label,
            score=scores[0] if known else None,
            label_score=float(results.label_scores[i]) if known else None,
            loss=float(results.losses[i]) if known else None,
            class_ids=ids,
            scores=scores,
            label_names=[class_names[number] for number in ids],
        )
        yield record if checkpoint is None else ImageRecord({"checkpoint": checkpoint, **record})
