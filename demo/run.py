"""The whole chain on small real data: train, evaluate, predict, export, infer, fine-tune, and a report with pictures.

    python demo/run.py

It trains a small CvT from scratch on the 1,797 handwritten digits beside this file, in a few minutes on two CPU cores.
Everything it writes is in output/demo, which it replaces. Each step prints the command that it runs.
"""

import argparse
import contextlib
import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Python started on a file looks for modules beside it, not in the repository's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo.digits import write_digits, write_even_odd
from util.errors import MismatchError, SaveError, UsageError, UserError, run_script
from util.prediction import Prediction
from util.settings import read_yaml

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "output" / "demo"
CONFIG = ROOT / "demo" / "digits.yaml"
FINE_TUNE_CONFIG = "demo/even_odd.yaml"
RUN, FINE_TUNED = "train", "even_odd"  # names of the runs' folders
NUM_STEPS = 9
TIE = 1e-6  # scores nearer than this may change places between two programs
ROUNDING = 1e-5  # scores of the same model in two programs differ by less


class StepError(UserError):
    """A step failed; the demo ends with its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Places:
    """Where the demo's files are, as commands take it: text, relative to the repository's root."""

    def __init__(self, output: str) -> None:
        self.output = output
        self.data = f"{output}/data"
        self.held_out = f"{output}/data/val"
        self.run = f"{output}/{RUN}"
        self.checkpoint = f"{output}/{RUN}/checkpoint-latest.safetensors"
        self.metrics = f"{output}/eval.json"
        self.predicted = f"{output}/predict.jsonl"
        self.inferred = f"{output}/infer.jsonl"
        self.export = f"{output}/export"
        self.even_odd_names = f"{output}/data/even_odd.txt"
        self.fine_tuned = f"{output}/{FINE_TUNED}/checkpoint-latest.safetensors"
        self.fine_tuned_metrics = f"{output}/eval_even_odd.json"
        self.report = f"{output}/report.png"
        self.summary = f"{output}/summary.json"


class Steps:
    """Announces, times and guards the steps. `seconds` holds what each finished step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, name: str, purpose: str) -> Iterator[None]:
        """Runs the body as the next step; what the user can mend becomes a StepError that names the step."""
        number = f"{len(self.seconds) + 1}/{NUM_STEPS}"
        say(f"\n[{number}] {name}: {purpose}")
        started = time.perf_counter()
        try:
            yield
        except UserError as error:
            raise StepError(f"step {number}, {name}: {error}", error.exit_code) from None
        except OSError as error:
            raise StepError(f"step {number}, {name}: {error}", SaveError.exit_code) from None
        self.seconds[name] = time.perf_counter() - started
        say(f"[{number}] {name}: done in {self.seconds[name]:.1f} s")


def say(text: str) -> None:
    """Prints at once, so that the line stands before what a command prints."""
    print(text, flush=True)


def from_root(path: str | Path) -> str:
    """Returns a path relative to the repository's root if it is in there, else as it is."""
    path = Path(path).absolute()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def run_command(*arguments: str, stdout: str | None = None) -> None:
    """Runs Python with these arguments in the repository's root, after printing the command.

    stdout: a file for standard output, relative to the root. An exit code other than 0 is a StepError with it.
    """
    redirection = "" if stdout is None else f" > {shlex.quote(stdout)}"
    say(f"\n    {shlex.join([from_root(sys.executable), *arguments])}{redirection}\n")
    with contextlib.ExitStack() as stack:
        file = None if stdout is None else stack.enter_context(open(ROOT / stdout, "w", encoding="utf-8"))
        code = subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=file, check=False).returncode
    if code != 0:
        code = code if code > 0 else 128 - code  # a signal's negative number, as shells report it
        raise StepError(f"the command failed with exit code {code}; its message is above", code)


def read_lines(path: Path) -> list[Any]:
    """Returns the objects of a file with one JSON value a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def compare_predictions(first: Sequence[Prediction], second: Sequence[Prediction]) -> float:
    """Returns the largest absolute difference of the scores, over every image and every class that both list for it.

    Other images, or other classes whose scores do not tie, are a MismatchError.
    """
    if [p["file_name"] for p in first] != [p["file_name"] for p in second]:
        raise MismatchError("the two outputs are not about the same images in the same order")
    largest = 0.0
    for a, b in zip(first, second, strict=True):
        for mine, other in zip(a["class_ids"], b["class_ids"], strict=True):
            if mine != other and not (_tie(a, mine, other) and _tie(b, mine, other)):
                raise MismatchError(f"{a['file_name']}: the classes are {a['class_ids']} and {b['class_ids']}")
        scores_a, scores_b = (dict(zip(p["class_ids"], p["scores"], strict=True)) for p in (a, b))
        largest = max([largest, *(abs(scores_a[i] - scores_b[i]) for i in scores_a.keys() & scores_b.keys())])
    return largest


def _tie(prediction: Prediction, first: int, second: int) -> bool:
    """Whether two classes have the same score; one that is not listed can have at most the last score."""
    scores = dict(zip(prediction["class_ids"], prediction["scores"], strict=True))
    lowest = prediction["scores"][-1]
    return abs(scores.get(first, lowest) - scores.get(second, lowest)) <= TIE


def main(argv: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("the report needs matplotlib; install it: pip install -r requirements-dev.txt")
    run_demo(OUTPUT, CONFIG)


def run_demo(output: Path, config: Path) -> None:
    """Runs the steps one after the other.

    output: the demo's folder, replaced. config: the training's settings.
    """
    recipe, places, steps, started = from_root(config), Places(from_root(output)), Steps(), time.perf_counter()
    say(f"Handwritten digits, from pictures to a deployed model, in {NUM_STEPS} steps; a few minutes on two CPU cores.")
    say("Each command is printed so that it can be typed in the repository's root.")

    with steps.step("data", f"write the digits as an ImageNet-style folder; {places.output} is replaced"):
        num_train, num_val = start_afresh(output)
        say(f"    {num_train} pictures in {places.data}/train, {num_val} (a fifth of each class) held out in val")

    with steps.step("train", f"train a CvT from scratch with {recipe}"):
        say("    The weights of the last epoch count: nothing is selected on the held-out pictures.")
        run_command("train.py", places.data, "--config", recipe, "--output", places.output, "--experiment", RUN)

    with steps.step("evaluate", f"measure the last epoch's weights on the {num_val} held-out pictures"):
        run_command("eval.py", places.data, "--config", recipe, "--resume", places.checkpoint,
                    stdout=places.metrics)  # fmt: skip
        metrics = json.loads((ROOT / places.metrics).read_text(encoding="utf-8"))

    with steps.step("predict", "classify the held-out pictures with the checkpoint"):
        run_command("predict.py", "--infer_imgs", places.held_out, "--resume", places.checkpoint,
                    "--output", places.predicted)  # fmt: skip

    with steps.step("export", f"write the model for deployment to {places.export}"):
        run_command("export_model.py", "--resume", places.checkpoint, "--output", places.export)

    with steps.step("infer", "classify the same pictures with the exported model, and compare"):
        run_command("infer.py", "--model_dir", places.export, "--input_file", places.held_out,
                    "--output", places.inferred)  # fmt: skip
        predictions = read_lines(ROOT / places.predicted)
        difference = compare_predictions(predictions, read_lines(ROOT / places.inferred))
        say(f"    predict.py and infer.py give the same classes; their scores differ by {difference:.1e} at most")
        if difference > ROUNDING:
            raise MismatchError(f"that is more than rounding, {ROUNDING:.0e}; please report it")

    with steps.step("fine-tune", f"give the model a new head that tells even from odd, with {FINE_TUNE_CONFIG}"):
        write_even_odd(output / "data")
        even_odd = ("--config", FINE_TUNE_CONFIG, "--class_names", places.even_odd_names)
        run_command("train.py", places.data, *even_odd, "--pretrained", places.checkpoint,
                    "--output", places.output, "--experiment", FINE_TUNED)  # fmt: skip
        run_command("eval.py", places.data, *even_odd, "--resume", places.fine_tuned,
                    stdout=places.fine_tuned_metrics)  # fmt: skip
        fine_tuned = json.loads((ROOT / places.fine_tuned_metrics).read_text(encoding="utf-8"))

    with steps.step("report", f"draw curves, confusion matrix and pictures: {places.report}"):
        settings = read_yaml(ROOT / places.run / "args.yaml")
        draw(places, predictions, settings, top1=metrics["top1"])

    with steps.step("summary", f"write the figures: {places.summary}"):
        summary = {
            "model": settings["model"],
            "epochs": settings["epochs"],
            "images": {"train": num_train, "held_out": metrics["images"]},
            "top1": metrics["top1"],
            "top5": metrics["top5"],
            "loss": metrics["loss"],
            "predict_infer_max_diff": difference,
            "train_seconds": steps.seconds["train"],
            "fine_tune_top1": fine_tuned["top1"],
            "fine_tune_seconds": steps.seconds["fine-tune"],
            "total_seconds": time.perf_counter() - started,
            "step_seconds": dict(steps.seconds),
        }
        (ROOT / places.summary).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    conclude(places, summary)


def start_afresh(output: Path) -> tuple[int, int]:
    """Removes an earlier demo and writes the data; returns the numbers of training and held-out pictures."""
    if output.exists():
        shutil.rmtree(output)
    return write_digits(output / "data")


def draw(places: Places, predictions: Sequence[Prediction], settings: dict[str, Any], *, top1: float) -> None:
    """Draws the report. top1: percent."""
    from demo.report import Answer, draw_report, save_report

    folders = sorted(folder.name for folder in (ROOT / places.held_out).iterdir())
    answers = []
    for prediction in predictions:
        file = ROOT / prediction["file_name"]
        truth = folders.index(file.parent.name)
        with Image.open(file) as image:
            answers.append(Answer(np.asarray(image), truth, prediction["class_ids"][0], prediction["scores"][0]))
    epochs = read_lines(ROOT / places.run / "log.txt")
    num_wrong = sum(answer.wrong for answer in answers)
    figure = draw_report(
        epochs,
        answers,
        [name.partition("_")[0] for name in folders],
        title=f"Handwritten digits: {top1:.2f} % of the held-out pictures are recognised",
        subtitle=f"{settings['model']}, trained from scratch for {len(epochs)} epochs; "
        f"{num_wrong} of {len(answers)} held-out pictures are wrong",
    )
    save_report(figure, ROOT / places.report)


def conclude(places: Places, summary: dict[str, Any]) -> None:
    """Prints the figures, and what to look at and try next."""
    images = summary["images"]
    figures = {
        "model": f"{summary['model']}, {summary['epochs']} epochs",
        "images": f"{images['train']} for training, {images['held_out']} held out",
        "top1": f"{summary['top1']:.2f} % of the held-out pictures",
        "predict_infer_max_diff": f"{summary['predict_infer_max_diff']:.1e}",
        "train_seconds": f"{summary['train_seconds']:.1f}",
        "fine_tune_top1": f"{summary['fine_tune_top1']:.2f} % of the held-out pictures, even or odd",
        "fine_tune_seconds": f"{summary['fine_tune_seconds']:.1f}",
        "total_seconds": f"{summary['total_seconds']:.1f}",
    }
    say("")
    for name, value in figures.items():
        say(f"    {name:24}{value}")
    say(f"\nThe report is {places.report}; the figures are in {places.summary}.")
    say("This model knows digits only. With ImageNet weights, the photographs in demo/ are classified like this:\n")
    say("    python predict.py --infer_imgs demo/*.jpg --model cvt_13_224x224 --pretrained WEIGHTS")


if __name__ == "__main__":
    run_script(main)
