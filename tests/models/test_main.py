"""`python -m models`: the table is what the models are, and counted without computing them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paddle import nn

from models import count_macs, count_parameters, create_model, list_models, model_info
from models.__main__ import COLUMNS, main, model_size
from models.layers import AttentionProduct
from tests.models.test_registry import SIZES
from util.errors import UsageError

ROOT = Path(__file__).parents[2]


def rows(text: str) -> list[list[str]]:
    """The table's fields, which two or more spaces separate."""
    return [[field.strip() for field in line.split("  ") if field.strip()] for line in text.splitlines()]


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "models", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["cvt_nano_32x32", "cvt_13_224x224", "convit_tiny", "vit_ti_16_224"])
def test_sizes_are_those_of_the_model_that_computes(name: str) -> None:
    model = create_model(name)
    assert model_size(name) == (count_parameters(model), count_macs(model, model_info(name).input_size))


def test_the_table_has_every_model_with_its_golden_size(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    _, *found = rows(capsys.readouterr().out)
    assert [row[:3] for row in found] == [
        [name, f"{SIZES[name][0]:,}", f"{SIZES[name][1]:.3f}"] for name in list_models()
    ]


def test_no_product_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(*_: object) -> None:
        raise AssertionError("a product was computed")

    for kind in (nn.Linear, *AttentionProduct.__subclasses__()):
        monkeypatch.setattr(kind, "forward", compute)
    assert model_size("convit_tiny")[0] == 5_710_512
    with pytest.raises(AssertionError, match="a product was computed"):
        count_macs(create_model("convit_tiny"), (3, 224, 224))


def test_a_row_says_what_the_name_implies(capsys: pytest.CaptureFixture[str]) -> None:
    main(["vit_b_32_*"])
    header, *found = rows(capsys.readouterr().out)
    assert header == list(COLUMNS)
    assert found == [
        ["vit_b_32_224", "88,224,232", "4.409", "3 x 224 x 224", "0.5", "0.9", "bicubic"],
        ["vit_b_32_384", "88,297,192", "13.044", "3 x 384 x 384", "0.5", "1", "bicubic"],
    ]
    main(["cvt_13_384x384"])
    assert rows(capsys.readouterr().out)[1][4:] == ["ImageNet", "squash", "bicubic"]


def test_another_spelling_of_a_name_is_that_model(capsys: pytest.CaptureFixture[str]) -> None:
    main(["vit_b32_224"])
    assert [row[0] for row in rows(capsys.readouterr().out)[1:]] == ["vit_b_32_224"]


def test_an_unknown_pattern_lists_the_known_models() -> None:
    with pytest.raises(
        UsageError, match=r"^no model matches 'resnet\*'; known models: convit_base, .*, vit_ti_16_224$"
    ):
        main(["resnet*"])


def test_the_command_prints_the_table_alone() -> None:
    done = start("cvt_nano*")
    assert done.returncode == 0
    assert [row[0] for row in rows(done.stdout)] == ["model", "cvt_nano_32x32"]


def test_a_second_pattern_is_one_line() -> None:
    done = start("cvt*", "vit*")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "error: unrecognized arguments: vit* (see python -m models --help)"
