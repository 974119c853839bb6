"""Names, exact sizes, and what `create_model` refuses."""

import pytest

from models import count_macs, count_parameters, create_model, list_models, model_info

# name: (trainable parameters, multiply-accumulates of one image in G), from the papers' tables made exact
SIZES = {
    "cvt_13_224x224": (19_997_480, 4.566),
    "cvt_13_384x384": (19_997_480, 16.269),
    "cvt_21_224x224": (31_622_696, 7.178),
    "cvt_21_384x384": (31_622_696, 24.849),
    "cvt_w24_384x384": (277_196_392, 194.222),
    "cvt_nano_32x32": (257_304, 0.004),
}


def test_no_model_is_without_golden_sizes() -> None:
    assert set(list_models()) == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_macs(name: str) -> None:
    parameters, gmacs = SIZES[name]
    model = create_model(name)
    assert count_parameters(model) == parameters
    assert model.training
    if name != "cvt_nano_32x32":
        assert count_macs(model, model_info(name).input_size) == pytest.approx(gmacs * 1e9, rel=1e-3)
        assert model.training, "counting must not change the mode"


def test_list_models_takes_wildcards_and_sorts_naturally() -> None:
    assert list_models("cvt_13*") == ["cvt_13_224x224", "cvt_13_384x384"]
    assert list_models("*384*") == ["cvt_13_384x384", "cvt_21_384x384", "cvt_w24_384x384"]
    assert list_models("resnet*") == []


def test_unknown_model_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown model .cvt_13_224x223.; did you mean .cvt_13.*cvt_w24_384x384"):
        create_model("cvt_13_224x223")


def test_unknown_override_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"does not take qkv_bias; it takes: .*qkv_proj_method"):
        create_model("cvt_nano_32x32", qkv_bias=False)


def test_models_of_384_are_evaluated_on_the_whole_picture() -> None:
    assert {name: model_info(name).crop_mode for name in list_models("*384*")} == dict.fromkeys(
        list_models("*384*"), "squash"
    )
    assert model_info("cvt_13_224x224").crop_pct == 0.875


def test_channels_and_classes_are_arguments() -> None:
    model = create_model("cvt_nano_32x32", in_chans=1, num_classes=3)
    assert model.stage0.patch_embed.proj.weight.shape[1] == 1
    assert model.head.weight.shape == [64, 3]
