"""From image files to top-k classes: the part that predict and infer share. Imports no paddle."""

import contextlib
import os
import queue
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np

from util.data.images import ImageError, decode_image
from util.data.transforms import EvalTransform
from util.errors import DataError, MismatchError, NonFiniteLossError, OutputError, SaveError, UsageError
from util.results import SUFFIXES, header_bytes, is_csv, row_bytes

TOP_K = 5

Output = Literal["logits", "probabilities"]  # what a model gives


class Prediction(TypedDict):
    """The best classes of one image, scores descending; the order of the keys is the output's."""

    class_ids: list[int]
    scores: list[float]
    file_name: str
    label_names: list[str]


def softmax(logits: np.ndarray) -> np.ndarray:
    """(B, K) logits -> (B, K) probabilities, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def top_k(
    logits: np.ndarray,
    files: Sequence[str],
    class_names: Sequence[str],
    *,
    k: int = TOP_K,
    output: Output = "logits",
) -> list[Prediction]:
    """Returns each image's best min(k, K) classes from logits (B, K); equal scores in the order of the classes.

    output: `probabilities` where the model has taken the softmax itself.
    """
    if logits.shape[1] != len(class_names):
        raise MismatchError(f"the model has {logits.shape[1]} classes, but {len(class_names)} are named")
    if not np.isfinite(logits).all():
        raise NonFiniteLossError(f"the model gives NaN or infinite logits for {files[0]} or its batch")
    scores = softmax(logits) if output == "logits" else logits
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]  # (B, k)
    return [
        Prediction(
            class_ids=[int(i) for i in ids],
            scores=[float(score[i]) for i in ids],
            file_name=file,
            label_names=[class_names[i] for i in ids],
        )
        for file, score, ids in zip(files, scores, best, strict=True)
    ]


def load_images(
    files: Sequence[str],
    places: range,
    *,
    transform: EvalTransform,
    num_workers: int,
    ahead: int,
    gives_way: bool = True,
) -> Generator[tuple[str, np.ndarray | ImageError], None, None]:
    """Yields each file's name and image, float32 (C, H, W), or why there is none, in the order of `places`.

    num_workers: threads; reading, decoding and resizing let each other work. 0 loads when the image is asked for.
    ahead: images that are loaded before they are asked for, at most. gives_way: whether the threads yield to those that
    compute meanwhile.
    """

    def load(place: int) -> tuple[str, np.ndarray | ImageError]:
        file = files[place]
        try:
            return file, transform(decode_image(file))
        except ImageError as error:
            return file, error

    if num_workers == 0 or len(places) == 1:
        yield from map(load, places)
        return
    from concurrent.futures import Future  # one picture alone answers without them

    tasks: queue.SimpleQueue[tuple[Future[tuple[str, np.ndarray | ImageError]], int] | None] = queue.SimpleQueue()
    waiting: deque[Future[tuple[str, np.ndarray | ImageError]]] = deque()

    def work() -> None:
        if gives_way:
            _give_way()
        while (task := tasks.get()) is not None:
            future, place = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(load(place))
                except BaseException as error:  # raised where the result is asked for
                    future.set_exception(error)

    # Daemons, which an executor's threads are not: one that hangs in a file keeps a job that was stopped from ending.
    threads = [threading.Thread(target=work, name=f"images_{i}", daemon=True) for i in range(num_workers)]
    with warnings.catch_warnings():  # each thread's own silence changes what all see, and undoes it in any order
        for thread in threads:
            thread.start()
        try:
            for place in places:
                waiting.append(Future())
                tasks.put((waiting[-1], place))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            for _ in threads:
                tasks.put(None)
        for thread in threads:
            thread.join()


def _give_way() -> None:
    """Makes this thread yield to those that compute.

    On a CPU that an engine uses whole, each moment that loading takes from one of its threads all of them wait. So
    images are loaded where a core is free, and else between two batches, by all cores. Where nothing is loaded while
    the engine computes, this would only leave them less than the threads that still spin after it.
    """
    if sys.platform == "linux":  # where a thread has a priority of its own
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, min(19, os.getpriority(os.PRIO_PROCESS, own) + 10))


def predict_places(
    files: Sequence[str],
    places: range,
    *,
    transform: EvalTransform,
    forward: Callable[[np.ndarray], np.ndarray],
    class_names: Sequence[str],
    batch_size: int,
    num_workers: int,
    gives_way: bool = True,
    output: Output = "logits",
) -> Generator[list[Prediction | ImageError], None, None]:
    """Yields the answers to `files[i]` for each i of `places` in order, about a batch at a time.

    forward: images float32 (B, C, H, W) -> logits (B, K), called by this thread alone, with whole batches until the
    last. An answer is a prediction, or why the file cannot be read. Meanwhile the next batch is loaded, and no more.
    num_workers, gives_way: as in `load_images`; output: as in `top_k`, of what `forward` gives.
    """
    answers: list[str | ImageError] = []  # in order; the names of those that the model is asked about
    images: list[np.ndarray] = []
    loaded = load_images(
        files, places, transform=transform, num_workers=num_workers, ahead=batch_size, gives_way=gives_way
    )
    with contextlib.closing(loaded):
        for name, image in loaded:
            if isinstance(image, ImageError):
                answers.append(image)
                if not images:
                    yield [image]
                    answers.clear()
                continue
            answers.append(name)
            images.append(image)
            if len(images) == batch_size:
                yield _answer(forward, answers, images, class_names, output)
                answers.clear()
                images.clear()
        if images:
            yield _answer(forward, answers, images, class_names, output)


def _answer(
    forward: Callable[[np.ndarray], np.ndarray],
    answers: Sequence[str | ImageError],
    images: Sequence[np.ndarray],
    class_names: Sequence[str],
    output: Output,
) -> list[Prediction | ImageError]:
    """Puts the model's predictions in the places of the names; there are as many images as names."""
    names = [answer for answer in answers if isinstance(answer, str)]
    predictions = iter(top_k(forward(np.stack(images)), names, class_names, output=output))
    return [next(predictions) if isinstance(answer, str) else answer for answer in answers]


def predict_files(
    files: Sequence[str],
    *,
    transform: EvalTransform,
    forward: Callable[[np.ndarray], np.ndarray],
    class_names: Sequence[str],
    batch_size: int,
    bad: list[ImageError],
    num_workers: int = 2,
) -> Iterator[Prediction]:
    """Yields the predictions of image files in order, a batch at a time, with a progress bar on a terminal.

    The arguments are those of `predict_places`. Files that cannot be read are left out and added to `bad`.
    """
    batches = predict_places(
        files, range(len(files)), transform=transform, forward=forward, class_names=class_names, batch_size=batch_size,
        num_workers=num_workers,
    )  # fmt: skip
    return _without_bad(batches, total=len(files), bad=bad)


def _without_bad(
    batches: Generator[list[Prediction | ImageError], None, None], *, total: int, bad: list[ImageError]
) -> Iterator[Prediction]:
    with contextlib.closing(batches), progress_bar(total) as advance:
        for answers in batches:
            bad += [answer for answer in answers if isinstance(answer, ImageError)]
            advance(len(answers))
            yield from (answer for answer in answers if not isinstance(answer, ImageError))


def print_predictions(
    batches: Generator[list[Prediction | ImageError], None, None], total: int, output: str | None
) -> None:
    """Prints the predictions of `predict_places` as `write_predictions` does; unreadable images are a DataError."""
    bad: list[ImageError] = []
    write_predictions(_without_bad(batches, total=total, bad=bad), output)
    refuse_unreadable(bad, total)


@contextlib.contextmanager
def progress_bar(total: int, *, done: int = 0) -> Iterator[Callable[[int], object]]:
    """Shows how many images are answered and how many a second, on a terminal alone; gives what counts them.

    Without tqdm, which running an export does not need, nothing is shown.
    """
    if sys.stderr is None or not sys.stderr.isatty() or find_spec("tqdm") is None:
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=done, unit=" images", leave=False) as bar:
        yield bar.update


def check_form(output: str) -> None:
    """Refuses the name of a results file of another form (UsageError)."""
    if Path(output).suffix not in SUFFIXES:
        raise UsageError(f"--output must end in .jsonl or .csv; got {output}")


def check_output(output: str) -> None:
    """Refuses a results file of another form (UsageError), or where none can be written (OutputError).

    What is there stays, and nothing is left where nothing was.
    """
    check_form(output)
    path = Path(os.path.realpath(output))
    is_new = not path.exists()
    if not is_new and not path.is_file() and not path.is_dir():
        return  # a reader of a pipe would take opening and closing it for the end of the results
    try:
        with open(path, "a", encoding="utf-8"):
            pass
        if is_new and not path.stat().st_size:  # it may be another process's by now
            path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror}") from None


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
        with open(output, "wb") as file:
            for prediction in chain([first], rows):
                try:
                    if count == 0:
                        file.write(header_bytes(prediction, as_csv=is_csv(output)))
                    file.write(row_bytes(prediction, as_csv=is_csv(output)))
                    file.flush()
                except OSError as error:
                    with contextlib.suppress(OSError):
                        file.close()  # which tries once more to write
                    if isinstance(error, BrokenPipeError):
                        raise SaveError(f"{name}: who reads it has gone, after {count} results; run again") from None
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
    tell(f"{count} results in {output}" if count else f"no results for {output}")


def tell(words: str) -> None:
    """Prints a line to standard error."""
    print(words, file=sys.stderr)


def refuse_unreadable(bad: Sequence[ImageError], total: int) -> None:
    """Raises a DataError that names the files that could not be read; the others have been answered."""
    if bad:
        listed = "\n  ".join(str(error) for error in bad)
        raise DataError(f"{len(bad)} of {total} images could not be read\n  {listed}")
