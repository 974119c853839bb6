"""What is damaged, missing, too much or of another model never answers: Paddle Inference would, with random numbers."""

import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import pytest

from tests.scripts.run import ROOT, last_error, run
from tests.util.deploy.foreign_programs import (
    FLAGS,
    GIVEN,
    SIZE,
    change_onnx,
    change_program,
    make_classifier,
    records,
    save_onnx,
    save_paddle,
)
from util.deploy.bundle import Program
from util.deploy.foreign import load_foreign
from util.errors import MissingInputError, UserError, WeightsError

PARAMS = "inference.pdiparams"
PROGRAMS = ("inference.pdmodel", "inference.json")
SHAPES = [((8,), 4)] * 4 + [((8,), 4), ((8, 3, 3, 3), 4), ((8,), 8), ((5,), 4), ((8, 5), 4)]  # sorted by name


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model in all formats, and the parameters of one with another number of classes."""
    folder = tmp_path_factory.mktemp("saved")
    for old_format in (True, False):
        save_paddle(make_classifier(), folder / "inference", old_format=old_format)
    save_paddle(make_classifier(4), folder / "four", old_format=False)
    save_onnx(folder / "x.onnx")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may change, with whose files all is well."""
    copy = Path(shutil.copytree(saved, tmp_path / "copy"))
    for name in (*PROGRAMS, "x.onnx"):
        assert load(copy / name).manifest.num_classes == 5
    return copy


def load(path: Path, params: Path | None = None) -> Program:
    return load_foreign(path, params=params, preprocess=GIVEN, names_file=None).program


def refused(path: Path, match: str, params: Path | None = None) -> None:
    with pytest.raises(WeightsError, match=match) as caught:
        load(path, params)
    assert "\n" not in str(caught.value)


def without(number: int) -> Callable[[bytes, list[bytes]], bytes]:
    return lambda _, parts: b"".join(parts[:number] + parts[number + 1 :])


def replaced(at: int, new: bytes) -> Callable[[bytes, list[bytes]], bytes]:
    return lambda data, _: data[:at] + new + data[at + len(new) :]


CHANGES: dict[str, tuple[Callable[[bytes, list[bytes]], bytes], str]] = {
    "empty": (lambda data, _: b"", r"ends after 0 of the 9 parameters"),
    "text": (lambda data, _: b"<!DOCTYPE html>" * 100, r"at 'batch_norm2d_\d+\.b_0', it has no tensor there"),
    "cut within values": (lambda data, _: data[:-1], r"is cut off: 'linear_\d+\.w_0' ends at byte 1\d+, the file at"),
    "cut within a type": (lambda data, parts: data[: len(parts[0]) + 21], r"it ends within a tensor's type"),
    "cut within a beginning": (lambda data, parts: data[: len(parts[0]) + 3], r"ends within a tensor's beginning"),
    "one more byte": (lambda data, _: data + b"\0", r"has 1 bytes behind the parameters of its program"),
    "one more tensor": (lambda data, parts: data + parts[0], r"has 56 bytes behind the parameters of its program"),
    "without the last": (without(8), r"ends after 8 of the 9 parameters"),
    "without the first": (without(0), r"has float32 \(8, 3, 3, 3\) where its program has 'conv2d_\d+\.b_0', float32 "),
    "two swapped": (lambda _, p: b"".join([*p[:4], p[5], p[4], *p[6:]]), r"has float32 \(8, 3, 3, 3\) where its prog"),
    "flipped magic": (replaced(0, b"\1"), r"it has no tensor there"),
    "flipped type": (
        replaced(21, b"\6"),
        r"has float64 \(8\) where its program has .*, float32 \(8\): another model's",
    ),
    "unknown type": (replaced(21, b"\x63"), r"it holds a tensor of type 99 and shape \[8\]"),
    "length below zero": (replaced(16, b"\xff\xff\xff\xff"), r"it has no tensor there"),
    "length of 2 GiB": (replaced(16, b"\xff\xff\xff\x7f"), r"it has no tensor there"),
    "2^56 elements": (
        lambda _, parts: b"".join([parts[0][:16], b"\x0b\0\0\0", b"\x08\x05\x10" + b"\xff" * 7 + b"\x7f", *parts]),
        r"has float32 \(72057594037927935\) where its program has",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_parameters_that_are_not_the_programs_never_answer(folder: Path, case: str) -> None:
    data = (folder / PARAMS).read_bytes()
    change, match = CHANGES[case]
    (folder / PARAMS).write_bytes(change(data, list(records(folder / PARAMS, SHAPES))))
    for name in PROGRAMS:
        refused(folder / name, match)


def test_the_parameters_of_another_model_never_answer(folder: Path) -> None:
    for name in PROGRAMS:
        refused(
            folder / name, r"four\.pdiparams: has float32 \(4\) where its .* another model's", folder / "four.pdiparams"
        )


def test_a_program_of_huge_parameters_takes_no_memory(folder: Path) -> None:
    """As large as the program says they are: only the file's length shows that they are not there."""
    program = folder / "inference.pdmodel"

    def enlarge(block: Any) -> None:
        (weight,) = (v for v in block.vars if v.name.startswith("conv2d") and v.name.endswith("w_0"))
        weight.type.dense_tensor.tensor.dims[:] = [1 << 40]

    change_program(program, enlarge)
    parts = list(records(folder / PARAMS, SHAPES))
    desc = b"\x08\x05\x10" + b"\x80" * 5 + b"\x20"
    parts[5] = parts[5][:16] + len(desc).to_bytes(4, "little") + desc + parts[5][28:]
    (folder / PARAMS).write_bytes(b"".join(parts))
    tracemalloc.start()
    refused(program, r"is cut off: 'conv2d_\d+\.w_0' ends at byte 43980\d+, the file at \d+")
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_missing_files_and_no_files_are_named(folder: Path, patience: None, tmp_path: Path) -> None:
    (folder / PARAMS).unlink()
    for name in PROGRAMS:
        with pytest.raises(MissingInputError, match=r"inference\.pdiparams: no such file"):
            load(folder / name)
        done = run("infer.py", "--model_file", folder / name, *FLAGS, "--input_file", ROOT / "demo" / "chelsea.jpg",
                   cwd=tmp_path, code=66)  # fmt: skip
        assert last_error(done).startswith(f"{folder / PARAMS}: no such file")
        assert done.stdout == ""
    os.mkfifo(folder / PARAMS)
    for name in PROGRAMS:
        refused(folder / name, "inference.pdiparams: is not a regular file")
    for name in (*PROGRAMS, "x.onnx"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        refused(folder / name, "is not a regular file")


BAD_PROGRAMS = {
    "empty": b"",
    "text": b"<!DOCTYPE html>\n" * 50,
    "an endless number": b"\x0a" + b"\xff" * 20,
    "zeros": bytes(100),
    "JSON": b"[[[[]]]]",
    "nested": b"[" * 200_000,
    "another's JSON": b'{"base_code": {"magic": "pir"}, "program": {"regions": [{"blocks": [{"ops": [{"#": "p"}]}]}]}}',
}


@pytest.mark.parametrize("case", BAD_PROGRAMS)
@pytest.mark.parametrize("name", [*PROGRAMS, "x.onnx"])
def test_what_is_no_program_is_refused(folder: Path, name: str, case: str) -> None:
    (folder / name).write_bytes(BAD_PROGRAMS[case])
    refused(folder / name, rf"{name}: (damaged|is no program|is empty|holds no weights)")


def set_dims(name: str, dims: list[int]) -> Callable[[Any], None]:
    def change(block: Any) -> None:
        (variable,) = (v for v in block.vars if v.name.startswith(name))
        variable.type.dense_tensor.tensor.dims[:] = dims

    return change


def fetch_twice(block: Any) -> None:
    block.ops.append(block.ops[-1])
    block.ops[-1].inputs[0].arguments[0] = block.ops[-3].inputs[0].arguments[0]


def set_kind(number: int, kind: str) -> Callable[[Any], None]:
    return lambda block: setattr(block.ops[number], "type", kind)


def forget_parameters(block: Any) -> None:
    for variable in block.vars:
        variable.persistable = False


def over_the_batch(block: Any) -> None:
    (axis,) = (attribute for attribute in block.ops[-2].attrs if attribute.name == "axis")
    axis.i = 0


UNFIT: dict[str, tuple[Callable[[Any], Any], str]] = {
    "four channels": (set_dims("x", [-1, 4, SIZE, SIZE]), r"its input is float32 \(\?, 4, 32, 32\); expected images"),
    "a vector": (set_dims("x", [-1, 3]), r"its input is float32 \(\?, 3\); expected images"),
    "a feature map": (set_dims("softmax", [-1, 5, 7, 7]), r"its output is float32 \(\?, 5, 7, 7\); expected \(batch"),
    "open classes": (set_dims("softmax", [-1, -1]), r"its output is float32 \(\?, \?\); expected \(batch, classes\)"),
    "two outputs": (fetch_twice, r"has 2 outputs; an image classifier has one"),
    "sigmoid": (set_kind(-2, "sigmoid"), r"its output comes from 'sigmoid', of which it is not known whether a soft"),
    "hostile kind": (set_kind(-2, "a\nb"), r"its output comes from 'a\\nb', of which"),
    "no parameters": (forget_parameters, r"holds no weights, so it is no trained model"),
    "over the batch": (
        over_the_batch,
        r"its softmax is over axis 0, not over the classes",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_program_that_is_no_known_classifier_is_refused(folder: Path, case: str) -> None:
    change, match = UNFIT[case]
    change_program(folder / "inference.pdmodel", change)
    refused(folder / "inference.pdmodel", match)


def test_a_program_without_a_softmax_gives_logits(folder: Path) -> None:
    def cut(block: Any) -> None:
        softmax = block.ops[-2]
        block.ops[-1].inputs[0].arguments[0] = softmax.inputs[0].arguments[0]
        del block.ops[-2]

    change_program(folder / "inference.pdmodel", cut)
    assert load(folder / "inference.pdmodel").manifest.output == "logits"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"raw_data": b"1234"}, r"damaged.*: it has 4 bytes for 'weight', float32 \[3, 5\]"),
        ({"raw_data": b""}, r"it has 0 bytes for 'weight'"),
        ({"data_location": 1}, r"it has 'weight' in another file; save all of it as one"),
        ({"data_type": 10}, r"it has 60 bytes for 'weight', float16 \[3, 5\]"),
    ],
)
def test_an_onnx_program_without_all_its_weights_is_refused(folder: Path, changes: Any, match: str) -> None:
    save_onnx(folder / "y.onnx", **changes)
    refused(folder / "y.onnx", match)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_constants_in_other_files_are_seen_wherever_they_are(depth: int, folder: Path) -> None:
    """In an operator of the program, of a branch of it, or of a branch of that."""

    def add(model: Any, location: int) -> None:
        constant = onnx.helper.make_tensor("c", onnx.TensorProto.FLOAT, [1], [1.0])
        constant.data_location = location
        node = onnx.helper.make_node("Constant", [], ["c"], value=constant)
        for _ in range(depth):
            branch = onnx.helper.make_graph([node], "branch", [], [])
            node = onnx.helper.make_node("If", ["x"], ["c"], then_branch=branch)
        model.graph.node.insert(0, node)

    program = folder / "z.onnx"
    save_onnx(program)
    change_onnx(program, lambda model: add(model, 0))
    load(program)
    save_onnx(program)
    change_onnx(program, lambda model: add(model, 1))
    refused(program, "it has a constant in another file; save all of it as one")


def test_an_onnx_program_that_is_no_known_classifier_is_refused(folder: Path) -> None:
    program = folder / "x.onnx"
    save_onnx(program, end="LogSoftmax")
    assert load(program).manifest.output == "logits"  # whose softmax is the same
    save_onnx(program, end="Sigmoid")
    refused(program, "its output comes from 'sigmoid', of which it is not known")
    save_onnx(program)
    change_onnx(program, lambda model: model.graph.node[-1].attribute.add(name="axis", type=2, i=0))
    refused(program, "its softmax is over axis 0")
    save_onnx(program)
    change_onnx(program, lambda model: model.ClearField("opset_import"))
    refused(program, "it names no version of operators")
    save_onnx(program)
    change_onnx(program, lambda model: model.graph.ClearField("initializer"))
    refused(program, "holds no weights")


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns data with some bytes changed, left out or put in."""
    result = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(result)))
        kind = rng.integers(3)
        if kind == 0:
            result[at] = rng.integers(256)
        elif kind == 1:
            del result[at : at + int(rng.integers(1, 40))]
        else:
            result[at:at] = rng.bytes(int(rng.integers(1, 12)))
    return bytes(result)


@pytest.mark.parametrize("name", [*PROGRAMS, "x.onnx", PARAMS])
def test_whatever_the_bytes_are_only_a_user_error_comes_out(folder: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    data = (folder / name).read_bytes()
    cuts = [data[: int(at)] for at in rng.choice(len(data), 60, replace=False)]
    program = folder / ("inference.pdmodel" if name == PARAMS else name)
    outcomes, messages = list[bool](), list[str]()
    for content in cuts + [mutated(data, rng) for _ in range(200)]:
        (folder / name).write_bytes(content)
        try:
            load(program)
            outcomes.append(True)
        except UserError as error:
            outcomes.append(False)
            messages.append(str(error))
    assert not any("\n" in message for message in messages)
    assert not any(outcomes[:60])  # what is cut off is always noticed
    assert sum(outcomes) < 130  # else the bytes that were changed do not matter to the reader
