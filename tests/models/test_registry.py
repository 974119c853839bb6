"""Names, exact sizes, and what `create_model` refuses."""

import pytest

from models import canonical_name, count_macs, count_parameters, create_model, list_models, model_info
from models.__main__ import model_size

# name: (trainable parameters, multiply-accumulates of one image in G), from the papers' tables made exact
SIZES = {
    "cvt_13_224x224": (19_997_480, 4.566),
    "cvt_13_384x384": (19_997_480, 16.269),
    "cvt_21_224x224": (31_622_696, 7.178),
    "cvt_21_384x384": (31_622_696, 24.849),
    "cvt_w24_384x384": (277_196_392, 194.222),
    "cvt_nano_32x32": (257_304, 0.004),
    "convit_tiny": (5_710_512, 1.252),
    "convit_tiny_plus": (9_972_912, 2.131),
    "convit_small": (27_777_322, 5.747),
    "convit_small_plus": (48_979_882, 10.002),
    "convit_base": (86_540_040, 17.505),
    "convit_base_plus": (153_134_856, 30.740),
    "vit_ti_16_224": (5_717_416, 1.254),
    "vit_s_16_224": (22_050_664, 4.599),
    "vit_b_16_224": (86_567_656, 17.564),
    "vit_b_16_384": (86_859_496, 55.484),
    "vit_b_32_224": (88_224_232, 4.409),
    "vit_b_32_384": (88_297_192, 13.044),
    "vit_l_16_224": (304_326_632, 61.555),
    "vit_l_16_384": (304_715_752, 191.066),
    "vit_l_32_224": (306_535_400, 15.378),
}


def test_no_model_is_without_golden_sizes() -> None:
    assert set(list_models()) == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_macs(name: str) -> None:
    """Of the model as it is built; `model_size` of the largest, which tests/models/test_main.py compares with that."""
    parameters, gmacs = SIZES[name]
    if parameters > 80_000_000:
        found = model_size(name)
    else:
        model = create_model(name)
        found = count_parameters(model), count_macs(model, model_info(name).input_size)
        assert model.training, "counting must not change the mode"
    assert found[0] == parameters
    assert round(found[1] / 1e9, 3) == gmacs


def test_any_accepted_spelling_is_the_model() -> None:
    assert canonical_name("vit_b32_224") == "vit_b_32_224"
    assert {canonical_name(name.replace("_16", "16").replace("_32", "32")) for name in list_models("vit_*")} == set(
        list_models("vit_*")
    )
    assert canonical_name("vit_b8_224") == "vit_b8_224"
    model = create_model("vit_b32_224", depth=1, embed_dim=24, num_heads=2, num_classes=3)
    assert model.patch_embed.proj.weight.shape == [24, 3, 32, 32]
    assert "vit_b32_224" not in list_models()


def test_list_models_takes_wildcards_and_sorts_naturally() -> None:
    assert list_models("cvt_13*") == ["cvt_13_224x224", "cvt_13_384x384"]
    assert list_models("*384*") == [
        "cvt_13_384x384", "cvt_21_384x384", "cvt_w24_384x384", "vit_b_16_384", "vit_b_32_384", "vit_l_16_384",
    ]  # fmt: skip
    assert list_models("resnet*") == []


def test_unknown_model_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown model .cvt_13_224x223.; did you mean .cvt_13.*cvt_w24_384x384"):
        create_model("cvt_13_224x223")


def test_unknown_override_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"does not take qkv_bias; it takes: .*qkv_proj_method"):
        create_model("cvt_nano_32x32", qkv_bias=False)


def test_models_of_384_are_evaluated_on_the_whole_picture() -> None:
    assert {model_info(name).crop_mode for name in list_models("cvt*384*")} == {"squash"}
    assert {model_info(name).crop_pct for name in list_models("vit*384*")} == {1.0}
    assert model_info("cvt_13_224x224").crop_pct == 0.875


def test_vit_sees_pixels_from_minus_one_to_one_and_the_others_imagenet_normalisation() -> None:
    assert {model_info(name).mean + model_info(name).std for name in list_models("vit_*")} == {(0.5,) * 6}
    others = set(list_models()) - set(list_models("vit_*"))
    assert {model_info(name).mean for name in others} == {(0.485, 0.456, 0.406)}


def test_channels_and_classes_are_arguments() -> None:
    model = create_model("cvt_nano_32x32", in_chans=1, num_classes=3)
    assert model.stage0.patch_embed.proj.weight.shape[1] == 1
    assert model.head.weight.shape == [64, 3]
