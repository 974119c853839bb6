# ruff: noqa: E501  a case a line reads better
"""`python -m util.checkpoint`: list, verify, strip, average."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import models
from tests.checkpoints import PREPROCESS, write_checkpoint
from tests.scripts.run import ROOT
from util.checkpoint import collect_checkpoints, main
from util.deploy.bundle import PARAMS
from util.deploy.export import export
from util.deploy.manifest import MANIFEST, Manifest
from util.errors import MismatchError, MissingInputError, OutputError, UsageError, WeightsError
from util.options import ModelOptions, PreprocessOptions, WeightsOptions
from util.restore import Trained, restore
from util.train.checkpoint import check_state
from util.weights.container import Container, read_container, write_container


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three checkpoints, one of them of other classes, a damaged one, and plain weights."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(Path("a.safetensors"), seed=1, folders="xyz", ema_seed=2)
    write_checkpoint(Path("b.safetensors"), seed=3, folders="xyz", ema_seed=4, update=9)
    write_checkpoint(Path("other/c.safetensors"), num_classes=4)
    damaged = bytearray(Path("a.safetensors").read_bytes())
    damaged[-100] ^= 1
    Path("other/damaged.safetensors").write_bytes(damaged)
    save_file({"head.weight": np.zeros((2, 2), np.float32)}, "other/plain.safetensors")
    return tmp_path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, to be copied."""
    folder = tmp_path_factory.mktemp("exported")
    model = write_checkpoint(folder / "x.safetensors", folders="xyz")
    manifest = Manifest(
        model="cvt_nano_32x32", input_shape=(None, 3, 32, 32), input_dtype="float32", num_classes=3,
        class_names=tuple("xyz"), preprocess=PREPROCESS, sha256={}, versions={},
    )  # fmt: skip
    export(model, manifest, folder / "out", threads=1, sizes=[(32, 32)])
    return folder / "out"


def load(path: str) -> Trained:
    """Opens weights as eval.py does."""
    return restore(
        WeightsOptions(resume=path), ModelOptions(), PreprocessOptions(), use_ema=False, names_file=None,
        registry=models,
    )  # fmt: skip


def weights(path: str, prefix: str = "model/") -> dict[str, np.ndarray]:
    tensors = read_container(Path(path)).tensors
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


# --- which files


def test_names_stand_for_files_in_their_order(folder: Path) -> None:
    (folder / ".tmp-x.safetensors").touch()
    assert collect_checkpoints(["b.safetensors", "."]) == ["b.safetensors", "a.safetensors"]
    assert collect_checkpoints(["?.safetensors"]) == ["a.safetensors", "b.safetensors"]
    assert collect_checkpoints(["o*"]) == [f"other/{n}.safetensors" for n in ("c", "damaged", "plain")]
    (folder / "empty").mkdir()
    for name, message in (
        ("gone", "gone: no such file or folder"),
        ("gone*", "nothing matches"),
        ("empty", "no .safetensors files"),
    ):
        with pytest.raises(MissingInputError, match=re.escape(message)):
            collect_checkpoints([name])


def test_the_folder_of_an_export_stands_for_itself(folder: Path, exported: Path) -> None:
    shutil.copytree(exported, "export")
    assert collect_checkpoints(["export", "a.safetensors", "exp*"]) == ["export", "a.safetensors"]
    shutil.copy(exported / MANIFEST, "other")
    assert collect_checkpoints(["other"])[:2] == ["other", "other/c.safetensors"]
    assert load("export").class_names == ["x", "y", "z"]


def test_a_folder_that_cannot_be_read_is_a_missing_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refuse)  # as a folder of mode 000 does, to all but root
    for command in ("list", "verify"):
        with pytest.raises(MissingInputError, match=r"^other: cannot be read: Permission denied$"):
            main([command, "other"])


# --- list and verify


def test_an_export_is_listed_and_verified(folder: Path, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(exported, "export")
    size = f"{Path('export', PARAMS).stat().st_size / 1e6:.1f}"
    main(["list", "export"])
    main(["verify", "export"])
    row, said = capsys.readouterr().out.splitlines()[1:]
    assert row.split() == ["export", "cvt_nano_32x32", "3", "-", "-", "-", size, "yes"]
    assert said == "export: OK"
    with open("export/model.pdiparams", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    main(["list", "export"])
    assert capsys.readouterr().out.splitlines()[1].endswith("NO")
    with pytest.raises(WeightsError, match="1 of 1 files"):
        main(["verify", "export"])
    assert capsys.readouterr().out.startswith("export/model.pdiparams is damaged, or of another export")


def test_verify_tells_what_is_missing_from_what_is_damaged(folder: Path) -> None:
    too_long = "a" * 300
    for names in (["gone.safetensors"], ["a.safetensors", "gone.safetensors"], [too_long, "gone.safetensors"]):
        with pytest.raises(MissingInputError, match=f"{len(set(names) - {'a.safetensors'})} of {len(names)} files"):
            main(["verify", *names])
    with pytest.raises(WeightsError, match="2 of 2 files"):
        main(["verify", "gone.safetensors", "other/damaged.safetensors"])


def test_the_table_says_what_files_hold(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", ".", "other"])
    head, *rows = [re.split(r"  +", line.strip()) for line in capsys.readouterr().out.splitlines()]
    assert head == ["checkpoint", "model", "classes", "epoch", "update", "best top-1", "MB", "verified"]
    assert rows[0][:6] == ["a.safetensors", "cvt_nano_32x32", "3", "3", "7", "41.50*"]
    assert rows[1][:6] == ["b.safetensors", "cvt_nano_32x32", "3", "3", "9", "41.50"], "measured on earlier weights"
    assert [row[0] for row in rows[2:]] == [f"other/{n}.safetensors" for n in ("c", "damaged", "plain")]
    assert [row[-1] for row in rows] == ["yes", "yes", "yes", "NO", "no hash"]
    assert float(rows[0][6]) == pytest.approx((folder / "a.safetensors").stat().st_size / 1e6, abs=0.06)


def test_verify_names_what_is_bad(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["verify", "a.safetensors", "."])
    assert capsys.readouterr().out == "a.safetensors: OK\na.safetensors: OK\nb.safetensors: OK\n"
    with pytest.raises(WeightsError, match=r"^3 of 5 files cannot be used$"):
        main(["verify", "b.safetensors", "gone.safetensors", "other"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "b.safetensors: OK"
    assert lines[1] == "gone.safetensors: no such file"
    assert lines[2] == "other/c.safetensors: OK"
    assert lines[3].startswith("other/damaged.safetensors: damaged")
    assert lines[4] == "other/plain.safetensors: a safetensors file, but not a checkpoint of this project"


# --- strip


@pytest.mark.parametrize(("flags", "prefix", "top1"), [([], "model/", 41.5), (["--ema"], "ema/", 43.25)])
def test_strip_keeps_the_weights_and_what_goes_with_them(
    folder: Path, flags: list[str], prefix: str, top1: float, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["strip", "a.safetensors", *flags, "--output", "small.safetensors"])
    assert Path("small.safetensors").stat().st_size < 0.6 * Path("a.safetensors").stat().st_size
    expected = weights("a.safetensors", prefix)
    assert set(read_container(Path("small.safetensors")).tensors) == {f"model/{n}" for n in expected}
    trained = load("small.safetensors")
    for name, value in trained.model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), expected[name], err_msg=name)
    assert (trained.name, trained.num_classes, trained.class_folders) == ("cvt_nano_32x32", 3, ["x", "y", "z"])
    assert trained.preprocessing.to_plain() == PREPROCESS
    assert read_container(Path("small.safetensors")).state["progress"]["best_acc1"] == top1
    capsys.readouterr()
    main(["verify", "small.safetensors"])
    assert capsys.readouterr().out == "small.safetensors: OK\n"


# --- average


@pytest.mark.parametrize(("flags", "prefix"), [([], "model/"), (["--ema"], "ema/")])
def test_average_is_the_mean_in_float64(folder: Path, flags: list[str], prefix: str) -> None:
    write_checkpoint(Path("d.safetensors"), seed=5, folders="xyz", ema_seed=6)
    files = ["a.safetensors", "b.safetensors", "d.safetensors"]
    main(["average", *files, *flags, "--output", "mean.safetensors"])
    sources = [weights(file, prefix) for file in files]
    found = weights("mean.safetensors")
    assert found.keys() == sources[0].keys()
    assert any(name.endswith("._variance") for name in found), "BatchNorm's statistics are among them"
    for name, value in found.items():
        exact = np.mean([source[name].astype(np.float64) for source in sources], axis=0)
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, exact.astype(np.float32), err_msg=name)
    trained = load("mean.safetensors")
    np.testing.assert_array_equal(trained.model.head.weight.numpy(), found["head.weight"])
    state = read_container(Path("mean.safetensors")).state
    assert state["progress"] == {"epoch": 3, "update": 9}, "no accuracy: nobody has measured it"
    assert state["made_by"] == {"command": "average", "files": files, "ema": bool(flags)}


DIFFERENCES = {
    "classes": ({"num_classes": 4}, r"model num_classes: 3 and 4"),
    "names of classes": ({"folders": "xyw"}, r"classes folders: \['x', 'y', 'z'\] and \['x', 'y', 'w'\]"),
    "preprocessing": ({"folders": "xyz", "preprocess": PREPROCESS | {"crop_pct": 0.875}}, r"preprocess crop_pct: 1\.0 and 0\.875"),
}  # fmt: skip


@pytest.mark.parametrize("case", DIFFERENCES)
def test_average_of_what_does_not_go_together_names_the_difference(folder: Path, case: str) -> None:
    arguments, message = DIFFERENCES[case]
    write_checkpoint(Path("d.safetensors"), **arguments)  # type: ignore[arg-type]
    with pytest.raises(MismatchError, match=rf"a\.safetensors and d\.safetensors cannot be averaged: .*{message}"):
        main(["average", "a.safetensors", "d.safetensors", "--output", "mean.safetensors"])
    assert not Path("mean.safetensors").exists()


def test_average_of_other_tensors_names_them(folder: Path) -> None:
    container = read_container(Path("b.safetensors"))
    tensors = dict(container.tensors)
    tensors["model/extra"] = np.zeros(2, np.float32)
    write_container(Path("d.safetensors"), tensors, container.state)
    with pytest.raises(MismatchError, match=r"model/extra: missing and \[2\] float32"):
        main(["average", "a.safetensors", "d.safetensors", "--output", "mean.safetensors"])


# --- both


COMMANDS = {"strip": ["strip", "a.safetensors"], "average": ["average", "a.safetensors", "b.safetensors"]}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_run_can_be_continued_from_the_result(folder: Path, command: str) -> None:
    check_state(read_container(Path("a.safetensors")).state, "a")  # from a checkpoint it can
    main([*COMMANDS[command], "--output", "out.safetensors"])
    container: Container = read_container(Path("out.safetensors"))
    with pytest.raises(WeightsError, match="start from it with --pretrained"):
        check_state(container.state, "out")
    assert isinstance(container.state["progress"]["update"], int), "what train.py compares before it refuses"


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_written_over(folder: Path, command: str) -> None:
    before = Path("b.safetensors").read_bytes()
    Path("dangling.safetensors").symlink_to("nowhere.safetensors")
    for output in ("b.safetensors", "dangling.safetensors"):
        with pytest.raises(OutputError, match="exists; nothing is written over"):
            main([*COMMANDS[command], "--output", output])
    with pytest.raises(OutputError, match="there is no folder gone"):
        main([*COMMANDS[command], "--output", "gone/x.safetensors"])
    with pytest.raises(UsageError, match=r"must end in \.safetensors"):
        main([*COMMANDS[command], "--output", "x.pdparams"])
    assert Path("b.safetensors").read_bytes() == before
    assert not Path("nowhere.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], UsageError, "required: COMMAND"),
        (["squash"], UsageError, "invalid choice: 'squash'"),
        (["strip", "a.safetensors"], UsageError, "required: --output"),
        (
            ["strip", "gone.safetensors", "--output", "x.safetensors"],
            MissingInputError,
            "gone.safetensors: no such file",
        ),
        (["strip", "other/damaged.safetensors", "--output", "x.safetensors"], WeightsError, "damaged"),
        (
            ["strip", "other/plain.safetensors", "--output", "x.safetensors"],
            WeightsError,
            "not a checkpoint of this project",
        ),
        (
            ["strip", "other/c.safetensors", "--ema", "--output", "x.safetensors"],
            WeightsError,
            "holds no averaged weights",
        ),
        (["average", "a.safetensors", "--output", "x.safetensors"], UsageError, "at least two files"),
        (
            ["average", "a.safetensors", "./a.safetensors", "--output", "x.safetensors"],
            UsageError,
            "a.safetensors is named twice",
        ),
        (
            ["average", "a.safetensors", "other/damaged.safetensors", "--output", "x.safetensors"],
            WeightsError,
            "damaged",
        ),
    ],
)
def test_mistakes(folder: Path, arguments: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        main(arguments)
    assert not Path("x.safetensors").exists()


def test_the_command_needs_no_paddle_and_ends_with_the_right_code(folder: Path) -> None:
    code = "import sys, util.checkpoint; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    command = [sys.executable, "-m", "util.checkpoint", "verify", *map(str, folder.glob("other/*.safetensors"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 65
    assert done.stderr == "error: 2 of 3 files cannot be used\n"
    help_text = subprocess.run([*command[:3], "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(name in help_text for name in ("list", "verify", "strip", "average"))


# --- states that nothing has written

STATES: dict[str, Any] = {
    "preprocess is a number": lambda s: s | {"preprocess": 5},
    "a mean is a number": lambda s: s | {"preprocess": PREPROCESS | {"mean": 5}},
    "a mean without end": lambda s: s | {"preprocess": PREPROCESS | {"mean": [10**400, 0, 0]}},
    "an interpolation is a list": lambda s: s | {"preprocess": PREPROCESS | {"interpolation": [[]]}},
    "a name too many": lambda s: s | {"preprocess": PREPROCESS | {"gamma": 1}},
    "a list": lambda s: [s],
    "an empty list": lambda s: [],
    "null": lambda s: None,
    "nothing": lambda s: {},
    "model is text": lambda s: s | {"model": "cvt_13"},
    "no model": lambda s: {k: v for k, v in s.items() if k != "model"},
    "classes is a list": lambda s: s | {"classes": ["a"]},
    "update is text": lambda s: s | {"progress": s["progress"] | {"update": "many"}},
    "accuracy without end": lambda s: s | {"progress": s["progress"] | {"best_acc1": 10**400}},
    "progress is a list": lambda s: s | {"progress": [1]},
    "made_by is text": lambda s: s | {"made_by": "me"},
}


@pytest.mark.parametrize("case", STATES)
def test_a_state_of_the_wrong_shape_is_one_line_in_plain_words(
    folder: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    container = read_container(Path("a.safetensors"))
    write_container(Path("bad.safetensors"), container.tensors, STATES[case](container.state))
    for command in (["strip", "bad.safetensors"], ["average", "bad.safetensors", "b.safetensors"],
                    ["average", "b.safetensors", "bad.safetensors"]):  # fmt: skip
        with pytest.raises(WeightsError, match=r"bad\.safetensors: not a usable checkpoint: ") as caught:
            main([*command, "--output", "x.safetensors"])
        assert not re.search(r"\n|Error|__init__|indices|'NoneType'", str(caught.value))
    with pytest.raises(WeightsError, match="1 of 2 files"):
        main(["verify", "bad.safetensors", "b.safetensors"])
    assert capsys.readouterr().out.endswith("\nb.safetensors: OK\n")
    main(["list", "bad.safetensors", "b.safetensors"])
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[-1] for row in rows] == ["NO", "yes"]
    with pytest.raises(WeightsError, match="not a usable checkpoint"):
        load("bad.safetensors")


def test_a_link_to_nothing_is_a_bad_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other/link.safetensors").symlink_to("nowhere.safetensors")
    main(["list", "other"])
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]}
    assert rows["other/link.safetensors"] == ["-"] * 6 + ["NO"]
    assert rows["other/c.safetensors"][-1] == "yes"
    with pytest.raises(WeightsError, match="3 of 4 files"):
        main(["verify", "other"])
    said = capsys.readouterr().out.splitlines()
    assert said[2:] == ["other/link.safetensors: no such file", said[3]]
    assert said[3].startswith("other/plain")
