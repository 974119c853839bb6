"""The demo's parts, without its training: data, comparison, report, and how a failing step ends."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.digits import CLASSES, DIGITS, write_digits, write_even_odd
from demo.report import SIZE, Answer, confusion_matrix, draw_report, in_order_of_interest, save_report
from demo.run import (
    CONFIG,
    FINE_TUNE_CONFIG,
    NUM_STEPS,
    ROOT,
    StepError,
    Steps,
    compare_predictions,
    run_command,
    run_demo,
)
from util.errors import MismatchError
from util.prediction import Prediction
from util.settings import read_yaml


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.png")}


def test_write_digits_holds_out_a_fifth_of_each_class(tmp_path: Path) -> None:
    num_train, num_val = write_digits(tmp_path)
    with np.load(DIGITS) as archive:
        totals = np.bincount(archive["labels"])
    counts = Counter((file.parts[-3], file.parts[-2]) for file in tmp_path.rglob("*.png"))
    for digit, name in enumerate(CLASSES):
        train, val = counts["train", f"{digit}_{name}"], counts["val", f"{digit}_{name}"]
        assert train + val == totals[digit]
        assert abs(val - totals[digit] / 5) < 1
    assert (num_train + num_val, len(counts)) == (1797, 20)
    assert num_train == sum(n for (split, _), n in counts.items() if split == "train")


def test_write_digits_is_deterministic_and_exact(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_digits(tmp_path / name, seed=seed)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert content(tmp_path / "a").keys() != content(tmp_path / "c").keys()
    with np.load(DIGITS) as archive:
        images = archive["images"].astype(int)
    file = next((tmp_path / "a" / "val").rglob("*.png"))
    np.testing.assert_array_equal(np.asarray(Image.open(file)), images[int(file.stem)] * 255 // 16)


def prediction(class_ids: list[int], scores: list[float], file_name: str = "a.png") -> Prediction:
    return Prediction(class_ids=class_ids, scores=scores, file_name=file_name, label_names=list(map(str, class_ids)))


def test_compare_predictions_finds_a_planted_difference() -> None:
    first = [prediction([3, 1, 2], [0.5, 0.3, 0.2], name) for name in ("a.png", "b.png")]
    planted = [first[0], prediction([3, 1, 2], [0.5, 0.3, 0.2 - 3e-5], "b.png")]
    assert compare_predictions(first, first) == 0.0
    assert compare_predictions(first, planted) == pytest.approx(3e-5)


def test_compare_predictions_lets_ties_change_places() -> None:
    first = [prediction([3, 1, 2], [0.5, 0.25, 0.25])]
    assert compare_predictions(first, [prediction([3, 2, 1], [0.5, 0.25, 0.25])]) == 0.0
    last = [prediction([3, 1, 7], [0.5, 0.25, 0.25])]  # 2 and 7 tie for the last place
    assert compare_predictions(first, last) == 0.0


@pytest.mark.parametrize(
    "second",
    [
        prediction([1, 3, 2], [0.5, 0.3, 0.2]),  # other order
        prediction([3, 7, 2], [0.5, 0.3, 0.2]),  # other class
        prediction([3, 1, 2], [0.5, 0.3, 0.2], "b.png"),  # other image
    ],
)
def test_compare_predictions_refuses_other_answers(second: Prediction) -> None:
    with pytest.raises(MismatchError):
        compare_predictions([prediction([3, 1, 2], [0.5, 0.3, 0.2])], [second])


def test_wrong_answers_come_first() -> None:
    pixels = np.zeros((8, 8), np.uint8)
    right_sure, right, wrong, wrong_sure = (
        Answer(pixels, *values) for values in ((0, 0, 0.9), (1, 1, 0.4), (0, 1, 0.3), (1, 0, 0.8))
    )
    answers = [right_sure, right, wrong, wrong_sure]
    assert [a.score for a in in_order_of_interest(answers)] == [0.8, 0.3, 0.4, 0.9]
    assert confusion_matrix(answers, 2).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("num_wrong", [0, 3, 60])
def test_report_has_the_expected_size(tmp_path: Path, num_wrong: int) -> None:
    rng = np.random.default_rng(0)
    epochs = [
        {"epoch": n, "train_loss": 2 - n, "test_loss": 1.5 - n, "test_acc1": 90.0 + n, "train_lr": 1e-3} for n in (0, 1)
    ]
    answers = [
        Answer(rng.integers(0, 256, (8, 8), np.uint8), n % 10, (n + (n < num_wrong)) % 10, 0.9) for n in range(80)
    ]
    figure = draw_report(epochs, answers, list("0123456789"), title="title", subtitle="subtitle")
    save_report(figure, tmp_path / "report.png")
    with Image.open(tmp_path / "report.png") as image:
        assert (image.format, image.size) == ("PNG", SIZE)
        assert len(set(image.convert("L").resize((160, 100)).tobytes())) > 20  # something is drawn


def test_failing_step_gives_its_exit_code_and_name() -> None:
    steps = Steps()
    with steps.step("first", "passes"):
        run_command("-c", "pass")
    with (
        pytest.raises(StepError, match=rf"step 2/{NUM_STEPS}, second: .* message is above") as caught,
        steps.step("second", "fails"),
    ):
        run_command("-c", "raise SystemExit(7)")
    assert caught.value.exit_code == 7
    assert list(steps.seconds) == ["first"]


def test_unwritable_place_is_a_line_not_a_traceback() -> None:
    with (
        pytest.raises(StepError, match=rf"step 1/{NUM_STEPS}, data: .*no-such-folder") as caught,
        Steps().step("data", "writes"),
    ):
        Path("no-such-folder/file").write_text("", encoding="utf-8")
    assert caught.value.exit_code == 74


def test_demo_ends_with_the_scripts_exit_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "demo"
    output.mkdir()
    (output / "old").touch()
    with pytest.raises(StepError, match=f"step 2/{NUM_STEPS}, train") as caught:
        run_demo(output, tmp_path / "missing.yaml")
    assert caught.value.exit_code == 66
    assert not (output / "old").exists()
    said = capfd.readouterr()
    assert f"train.py {output}/data --config {tmp_path}/missing.yaml" in said.out
    assert "no such configuration file" in said.err


def test_script_runs_from_anywhere_and_takes_no_options(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "demo" / "run.py")]
    helped = subprocess.run([*script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "output/demo" in helped.stdout
    refused = subprocess.run([*script, "--epochs", "1"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)


def test_recipes_have_known_keys_only() -> None:
    assert read_yaml(CONFIG)["model"] == read_yaml(ROOT / FINE_TUNE_CONFIG)["model"] == "cvt_nano_32x32"


def test_even_odd_lists_are_about_the_same_pictures(tmp_path: Path) -> None:
    write_digits(tmp_path)
    write_even_odd(tmp_path)
    recipe = read_yaml(ROOT / FINE_TUNE_CONFIG)
    for split, key in (("train", "cls_label_path_train"), ("val", "cls_label_path_val")):
        lines = (tmp_path / recipe[key]).read_text().splitlines()
        labels = {path: int(label) for path, label in (line.rsplit(" ", 1) for line in lines)}
        pictures = {str(file.relative_to(tmp_path)) for file in (tmp_path / split).rglob("*.png")}
        assert labels.keys() == pictures
        assert all(label == CLASSES.index(path.split("/")[1][2:]) % 2 for path, label in labels.items())
    assert (tmp_path / "even_odd.txt").read_text().split() == ["0", "even", "1", "odd"]


@pytest.mark.slow  # the whole demo, several minutes
def test_demo_keeps_what_the_readme_says(tmp_path: Path) -> None:
    run_demo(tmp_path / "demo", CONFIG)
    summary = json.loads((tmp_path / "demo/summary.json").read_text())
    assert summary["top1"] >= 97.5
    assert summary["fine_tune_top1"] >= 97.0
    assert summary["predict_infer_max_diff"] < 1e-5
