"""Every script with odd names of data, output, configuration, export and images, whatever the locale."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.run import ROOT, TINY, last_error, run
from tests.trees import write_picture, write_tree

# Folders, and a name for images: quotes and what a shell would expand, a space at the end, a line break, many bytes.
ODD_NAMES = {
    "signs of all kinds": ("数据 集/é (1)/😀/a'b\"c$d", "图 *[1]?😀 "),
    "space at the end": ("end /of all ", "x "),
    "line break": ("two\nlines", "two\nlines"),
    "200 bytes": ("长" * 66 + "ab", "图" * 60),
}


def run_module(
    name: str, *arguments: str | Path, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m <name> ...` as `run` runs scripts."""
    program = [sys.executable, "-m", name, *map(str, arguments)]
    done = subprocess.run(program, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    return done


def _chain(base: Path, image: str, *, locale: str) -> None:
    """Trains, evaluates, predicts, exports, deploys, checks and lists, all below `base`."""
    base.mkdir(parents=True)
    data, output, config, export = base / "data", base / "out", base / "设置 1.yaml", base / "ex port"
    write_tree(data, num_classes=2, train=4, val=2)
    picture = data / "val/n01440764" / f"{image}.JPEG"
    write_picture(picture, seed=1)
    config.write_text("epochs: 1\nexperiment: 'run 😀'\n", encoding="utf-8")
    run_module("util.data.check", data, LC_ALL=locale)
    arguments = (data, "--config", config, "--output", output, *TINY)
    trained = run("run.sh", "-g", "1", *arguments, cwd=base, LC_ALL=locale)
    assert f"8 images from {data}/train.index.safetensors, checked on" in trained.stderr
    checkpoint = output / "run 😀/checkpoint-latest.safetensors"
    assert "this run is finished" in run("train.py", *arguments, cwd=base, LC_ALL=locale).stderr
    listed = run_module("util.checkpoint", "list", checkpoint.parent, LC_ALL=locale)
    assert "checkpoint-latest" in listed.stdout
    weights = ("--resume", checkpoint)
    results = base / "各 个.jsonl"
    few = ("--batch_size", "4", "--num_workers", "0", "--output", results, "--report", base / "报 告")
    assert json.loads(run("eval.py", data, *weights, *few, cwd=base, LC_ALL=locale).stdout)["images"] == 5
    written = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    assert str(picture) in [record["file_name"] for record in written]
    run("export_model.py", *weights, "--output", export, cwd=base, LC_ALL=locale)
    said = [
        run("predict.py", *weights, "--infer_imgs", picture, cwd=base, LC_ALL=locale).stdout,
        run("infer.py", "--model_dir", export, "--input_file", picture, cwd=base, LC_ALL=locale).stdout,
    ]
    predicted, inferred = (ast.literal_eval(text) for text in said)
    assert predicted[0]["file_name"] == inferred[0]["file_name"] == str(picture)
    assert predicted[0]["scores"] == pytest.approx(inferred[0]["scores"], abs=1e-5)
    assert list(base.rglob(".tmp-*")) == []


def test_all_scripts_take_signs_of_all_kinds_in_the_plainest_locale(tmp_path: Path) -> None:
    folder, image = ODD_NAMES["signs of all kinds"]
    _chain(tmp_path / folder, image, locale="C")


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize("name", ODD_NAMES)
def test_all_scripts_take_odd_names(tmp_path: Path, name: str, locale: str) -> None:
    folder, image = ODD_NAMES[name]
    _chain(tmp_path / folder, image, locale=locale)


def test_names_that_are_not_utf8_are_refused_in_a_line(tmp_path: Path) -> None:
    """An image may have such a name; a class may not: checkpoints and results hold it as text."""
    odd = os.fsdecode(b"\xff\xfe")
    write_tree(tmp_path / "data", num_classes=2, train=4, val=1)
    shutil.copytree(tmp_path / "data", tmp_path / "classes")
    (tmp_path / "data/train/n01440764/n01440764 0.JPEG").rename(tmp_path / f"data/train/n01440764/{odd}.JPEG")
    run_module("util.data.check", tmp_path / "data", LC_ALL="C")
    (tmp_path / "classes/train/n01440764").rename(tmp_path / f"classes/train/{odd}")
    checked = run_module("util.data.check", tmp_path / "classes", code=65, LC_ALL="C")
    trained = run("train.py", tmp_path / "classes", *TINY, cwd=tmp_path, code=65, LC_ALL="C")
    for done in (checked, trained):
        assert "class folders whose names are not UTF-8: '\\udcff\\udcfe'; rename" in last_error(done)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["classes", "data"]


@pytest.mark.parametrize(
    "command",
    [
        ("train.py", "data", "--output"),
        ("train.py", "data", "--experiment"),
        ("export_model.py", "--resume", "x.safetensors", "--output"),
        ("infer.py", "--input_file", "x.jpg", "--model_dir"),
    ],
)
def test_places_that_paddle_could_not_take_are_refused_at_once(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = run(*command, os.fsdecode(b"o\xff"), cwd=tmp_path, code=2, LC_ALL="C")
    assert last_error(done) == f"{command[-1].removeprefix('--')} must be UTF-8 text; got 'o\\udcff'"
    assert list(tmp_path.iterdir()) == []
