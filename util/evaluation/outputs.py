"""What eval.py writes: standard output, --output and --report, for one checkpoint or several."""

import contextlib
import json
import sys
from collections.abc import Iterator
from itertools import chain
from logging import Logger
from pathlib import Path
from typing import Any

from util.errors import OutputError, SaveError
from util.evaluation.records import ImageRecord, image_records
from util.evaluation.report import can_draw, write_comparison, write_report
from util.evaluation.results import ImageResults
from util.evaluation.task import Task, figures_of
from util.options import DataOptions, EvalOptions
from util.prediction import write_results
from util.weights.state import peek_checked_state
from util.whole_files import check_whole_output, create_folder, write_whole

MAX_NAMED = 20  # unreadable images named in the log


class Outputs:
    """Takes results as they come. What cannot be written is refused at once, before anything is evaluated.

    With several checkpoints each line of standard output and each image's record say which it is about, and the
    report has a table of all, and a folder for each.
    """

    def __init__(self, options: EvalOptions, data: DataOptions, log: Logger) -> None:
        self.options = options
        self.data = data.cls_label_path_val or str(Path(data.data_dir, data.val_split))
        self.several = bool(options.checkpoints)
        self.log = log
        self._rows: list[dict[str, Any]] = []
        self._records: list[Iterator[ImageRecord]] = []
        self._unwritten: list[str] = []
        if options.output is not None:
            check_whole_output(options.output)
        if options.report is not None:
            create_folder(Path(options.report))
        self._draws = options.report is not None and can_draw()
        if options.report is not None and not self._draws:
            log.warning('tables only: for pictures install matplotlib: pip install "matplotlib>=3.8,<4"')

    def add(self, source: str, task: Task, results: ImageResults) -> None:
        """Prints a checkpoint's figures, and writes its report. source: the weights' file."""
        with_calibration, with_missing = self.options.report is not None, self.options.allow_missing
        figures = figures_of(results, task, with_calibration=with_calibration, with_missing=with_missing)
        self._name_unreadable(results)
        about = {"checkpoint": source} if self.several else {}
        text = f"top-1 {figures['top1']:.3f}  top-5 {figures['top5']:.3f}  loss {figures['loss']:.4f}"
        self.log.info(f"{source}: {text}" if self.several else text)
        sys.stdout.write(json.dumps(about | figures) + "\n")
        sys.stdout.flush()
        if self.options.output is not None:
            files = [task.images.path(i) for i in range(len(task.images))]
            records = image_records(
                results, files=files, class_names=task.trained.class_names, checkpoint=source if self.several else None
            )
            self._records.append(records)
        if self.options.report is not None:
            with self._going_on():
                self._report(Path(self.options.report), source, task, results, figures=figures)
        progress = peek_checked_state(Path(source)).get("progress", {})
        trained = {name: progress.get(name) for name in ("epoch", "update")}
        self._rows.append({**about, "model": task.trained.name, "classes": len(task.class_ids), **trained, **figures})

    def _name_unreadable(self, results: ImageResults) -> None:
        if not results.unreadable:
            return
        count, total = len(results.unreadable), len(results)
        listed = "".join(f"\n  {image.path}: {image.reason}" for image in results.unreadable[:MAX_NAMED])
        more = f"\n  and {count - MAX_NAMED:,} more" if count > MAX_NAMED else ""
        self.log.warning(
            f"{total - count:,} of {total:,} images could be read; the others count as wrong in top-1 and top-5, and "
            f"not in the loss:{listed}{more}"
        )

    def _report(self, folder: Path, source: str, task: Task, results: ImageResults, *, figures: dict[str, Any]) -> None:
        if self.several:
            path = Path(source).absolute()
            folder = folder / f"{len(self._rows) + 1:02d}-{path.parent.name}-{path.stem}"
            create_folder(folder)
        summary = {
            "checkpoint": source,
            "model": task.trained.name,
            "data": self.data,
            **figures,
            "classes": len(task.class_ids),
            "subset": self.options.subset,
            "real_labels": self.options.real_labels,
            "flip": self.options.flip,
            "preprocess": task.trained.preprocessing.to_plain(),
        }
        write_report(
            folder,
            results,
            class_ids=task.class_ids,
            class_names=task.trained.class_names,
            summary=summary,
            pictures=self._draws,
        )

    def add_failure(self, source: str, reason: str) -> None:
        """Reports a checkpoint that could not be evaluated; the others are."""
        self.log.error(reason if source in reason else f"{source}: {reason}")
        self._rows.append({"checkpoint": source, "error": reason})

    def finish(self) -> None:
        """Writes what is about all checkpoints together. What could not be written, now or before, is a SaveError."""
        if self._records and self.options.output is not None:
            with self._going_on():
                self._write_records(self.options.output)
        if self.several and self.options.report is not None:
            with self._going_on():
                write_comparison(Path(self.options.report), self._rows)
        if self._unwritten:
            raise SaveError("; ".join(self._unwritten))

    def _write_records(self, output: str) -> None:
        counts: list[int] = []
        write_whole(
            Path(output),
            lambda beside: counts.append(write_results(chain.from_iterable(self._records), str(beside), name=output)),
        )
        self.log.info(f"{counts[0]} results in {output}")

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        """Puts off what cannot be written until all else has been."""
        try:
            yield
        except (SaveError, OutputError) as error:
            self._unwritten.append(str(error))
