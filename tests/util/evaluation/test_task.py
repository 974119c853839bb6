"""Processes that must agree on whether a checkpoint can be evaluated."""

from dataclasses import dataclass
from typing import Any, cast

import pytest

from models import create_model
from util.distributed import World
from util.errors import DataError, MismatchError, UntrustedFileError, UsageError, WeightsError
from util.evaluation.task import Task, agree

TASK = cast(Task, object())


@dataclass(frozen=True, kw_only=True)
class TwoProcesses(World):
    """This process and another one, which has handed over `other`; counts what this one has handed over."""

    other: str
    handed_over: list[Any]

    def gather(self, value: Any) -> list[Any]:
        self.handed_over.append(value)
        return [value, self.other]


def world(other: str = "") -> TwoProcesses:
    return TwoProcesses(rank=0, size=2, other=other, handed_over=[])


def test_a_task_that_every_process_has_is_taken() -> None:
    assert agree(lambda: TASK, world()) is TASK


def test_a_refusal_anywhere_is_one_everywhere() -> None:
    with pytest.raises(WeightsError, match=r"^a\.safetensors: cannot be read$"):
        agree(lambda: TASK, world(other="a.safetensors: cannot be read"))


@pytest.mark.parametrize(
    "error", [WeightsError("x is damaged"), MismatchError("x does not fit"), UntrustedFileError("x runs code")]
)
def test_what_is_wrong_with_the_weights_is_told_to_the_others(error: ValueError) -> None:
    def prepare() -> Task:
        raise error

    both = world()
    with pytest.raises(WeightsError, match=str(error)):
        agree(prepare, both)
    assert both.handed_over == [str(error)]


def test_a_model_that_does_not_exist_is_about_the_weights() -> None:
    def prepare() -> Task:
        create_model("cvt_99")
        return TASK

    with pytest.raises(WeightsError, match="unknown model 'cvt_99'"):
        agree(prepare, world())


@pytest.mark.parametrize("error", [DataError("a bad image"), UsageError("a bad flag"), ValueError("our own mistake")])
def test_what_is_not_about_the_weights_ends_the_evaluation(error: ValueError) -> None:
    def prepare() -> Task:
        raise error

    both = world()
    with pytest.raises(type(error)) as caught:
        agree(prepare, both)
    assert caught.value is error
    assert both.handed_over == []
