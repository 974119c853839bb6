"""From image files to top-k classes: the part that predict and infer share. Imports no paddle."""

import contextlib
import csv
import glob
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypedDict

import numpy as np
from tqdm import tqdm

from util.data.find_images import find_images
from util.data.images import ImageError, decode_image
from util.data.transforms import EvalTransform
from util.errors import DataError, MissingInputError, NonFiniteLossError, OutputError, SaveError, UsageError
from util.files import read_text

TOP_K = 5


class Prediction(TypedDict):
    """The best classes of one image, scores descending; the order of the keys is the output's."""

    class_ids: list[int]
    scores: list[float]
    file_name: str
    label_names: list[str]


def collect_inputs(names: Sequence[str]) -> list[str]:
    """Returns the image files that the names stand for: files, folders (recursive), globs, `@list.txt`.

    What a folder or a glob stands for is sorted. Nothing found is a MissingInputError.
    """
    files: list[str] = []
    for name in names:
        if name.startswith("@"):
            lines = read_text(Path(name[1:])).splitlines()
            files += [line.strip() for line in lines if line.strip()]
        elif os.path.isdir(name):
            found = find_images(name)
            if not found:
                raise MissingInputError(f"{name}: no images in this folder")
            files += [os.path.join(name, file) for file in found]
        elif os.path.lexists(name):
            files.append(name)
        elif glob.has_magic(name):
            matches = sorted(glob.glob(name, recursive=True))
            if not matches:
                raise MissingInputError(f"{name}: nothing matches")
            files += matches
        else:
            raise MissingInputError(f"{name}: no such file or folder")
    if not files:
        raise UsageError("no images: name files, folders, globs, or @list.txt")
    return files


def softmax(logits: np.ndarray) -> np.ndarray:
    """(B, K) logits -> (B, K) probabilities, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def top_k(logits: np.ndarray, files: Sequence[str], class_names: Sequence[str]) -> list[Prediction]:
    """Returns each image's best min(5, K) classes from logits (B, K); equal scores in the order of the classes."""
    if not np.isfinite(logits).all():
        raise NonFiniteLossError(f"the model gives NaN or infinite logits for {files[0]} or its batch")
    scores = softmax(logits)
    best = np.argsort(-logits, axis=1, kind="stable")[:, :TOP_K]  # (B, k)
    return [
        Prediction(
            class_ids=[int(i) for i in ids],
            scores=[float(score[i]) for i in ids],
            file_name=file,
            label_names=[class_names[i] for i in ids],
        )
        for file, score, ids in zip(files, scores, best, strict=True)
    ]


def predict_files(
    files: Sequence[str],
    *,
    transform: EvalTransform,
    forward: Callable[[np.ndarray], np.ndarray],
    class_names: Sequence[str],
    batch_size: int,
    bad: list[ImageError],
) -> Iterator[Prediction]:
    """Yields the predictions of image files in order, a batch at a time.

    forward: images float32 (B, C, H, W) -> logits (B, K). Files that cannot be read are left out and added to `bad`.
    """
    starts = range(0, len(files), batch_size)
    for start in tqdm(starts, "batches", leave=False, disable=None):  # on a terminal only
        names, images = [], []
        for file in files[start : start + batch_size]:
            try:
                images.append(transform(decode_image(file)))
                names.append(file)
            except ImageError as error:
                bad.append(error)
        if images:
            yield from top_k(forward(np.stack(images)), names, class_names)


def check_output(output: str) -> None:
    """Refuses a results file of another form (UsageError), or where none can be written (OutputError).

    What is there stays, and nothing is left where nothing was.
    """
    if Path(output).suffix not in (".jsonl", ".csv"):
        raise UsageError(f"--output must end in .jsonl or .csv; got {output}")
    path = Path(os.path.realpath(output))
    is_new = not path.exists()
    if not is_new and not path.is_file() and not path.is_dir():
        return  # a reader of a pipe would take opening and closing it for the end of the results
    try:
        with open(path, "a", encoding="utf-8"):
            pass
        if is_new:
            path.unlink()
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror}") from None


def _write_row(prediction: Prediction, file: IO[str], *, as_csv: bool, is_first: bool) -> None:
    if not as_csv:
        file.write(json.dumps(prediction, ensure_ascii=False) + "\n")
    else:
        writer = csv.writer(file)
        if is_first:
            writer.writerow(prediction.keys())
        row: list[Any] = [v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in prediction.values()]
        writer.writerow(row)
    file.flush()


def write_results(predictions: Iterable[Prediction], output: str, *, name: str) -> int:
    """Writes predictions to a file as they come, and returns how many; without any the file is not touched.

    output: as of `write_predictions`. name: what errors call it. What goes wrong while writing is a SaveError.
    """
    rows = iter(predictions)
    first = next(rows, None)  # what was there stays until there is something to put in its place
    if first is None:
        return 0
    count, is_new = 0, not os.path.exists(output)
    try:
        with open(output, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            for prediction in chain([first], rows):
                try:
                    _write_row(prediction, file, as_csv=Path(output).suffix == ".csv", is_first=count == 0)
                except OSError as error:
                    with contextlib.suppress(OSError):
                        file.close()  # which tries once more to write
                    raise SaveError(
                        f"{name}: not written after {count} results: {error.strerror}; make room or choose another "
                        "--output, and run again"
                    ) from None
                count += 1
    finally:
        if is_new and count == 0 and os.path.isfile(output) and os.path.getsize(output) == 0:
            os.unlink(os.path.realpath(output))
    return count


def write_predictions(predictions: Iterable[Prediction], output: str | None) -> None:
    """Prints one Python literal, a list of dicts, as the only line of standard output; or writes as they come.

    output: a `.jsonl` file gets an object a line, a `.csv` file a row an image with lists as JSON.
    """
    if output is None and sys.stdout is None:
        raise OutputError("standard output is closed; name a file with --output")
    if output is None:
        found = list(predictions)
        for prediction in found:
            best = f"{prediction['label_names'][0]} ({100 * prediction['scores'][0]:.2f} %)"
            print(f"{prediction['file_name']}: {best}", file=sys.stderr)
        print(found)
        return
    check_output(output)
    count = write_results(predictions, output, name=output)
    print(f"{count} results in {output}" if count else f"no results for {output}", file=sys.stderr)


def refuse_unreadable(bad: Sequence[ImageError], total: int) -> None:
    """Raises a DataError that names the files that could not be read; the others have been answered."""
    if bad:
        listed = "\n  ".join(str(error) for error in bad)
        raise DataError(f"{len(bad)} of {total} images could not be read\n  {listed}")
