"""The file for PaddleX and PaddleClas: what they find in it is what the export does, and what others wrote is read."""

import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from models import create_model
from util.data.preprocessing import Preprocessing
from util.deploy.bundle import load_bundle
from util.deploy.export import export
from util.deploy.foreign import find_foreign, load_foreign
from util.deploy.inference_yml import FILE, LINKS, read_inference_yml, write_inference_yml
from util.deploy.manifest import Manifest, file_sha256, read_manifest
from util.errors import DataError, MissingInputError, WeightsError
from util.options import PreprocessOptions

WHOLE = Preprocessing(
    input_size=(3, 64, 64), crop_pct=0.86, crop_mode="center", interpolation="bicubic", mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)  # fmt: skip
NAMES = ("tench, Tinca tinca", "yes", "3", "été: [x]")


def manifest_of(preprocessing: Preprocessing) -> Manifest:
    return Manifest(
        model="vit_s_16_224", input_shape=(None, *preprocessing.input_size), input_dtype="float32", num_classes=4,
        class_names=NAMES, preprocess=preprocessing.to_plain(), sha256={}, versions={},
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export, and `packed.zip` of the same."""
    folder = tmp_path_factory.mktemp("exported")
    model = create_model("vit_s_16_224", img_size=64, embed_dim=12, num_heads=2, depth=1, num_classes=4)
    model.eval()
    for target in (folder, folder / "packed.zip"):
        export(model, manifest_of(WHOLE), target, threads=1, sizes=[(64, 64)])
    return folder


def prepared_as_paddleclas(values: dict[str, Any], image: Image.Image) -> np.ndarray:
    """What the other tools do, by their documentation: (H, W, 3) uint8 -> (3, H, W)."""
    ops = {name: arguments for op in values["PreProcess"]["transform_ops"] for name, arguments in op.items()}
    resize, normalise = ops["ResizeImage"], ops["NormalizeImage"]
    assert resize["backend"] == "pil"
    if "resize_short" in resize:
        factor = resize["resize_short"] / min(image.size)
        size = (round(image.width * factor), round(image.height * factor))
    else:
        size = tuple(resize["size"])
    pixels = np.asarray(image.resize(size, Image.Resampling[resize["interpolation"].upper()]))
    if "CropImage" in ops:
        side = ops["CropImage"]["size"]
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    scaled = pixels.astype(np.float32) * normalise["scale"]
    return ((scaled - normalise["mean"]) / normalise["std"]).transpose(2, 0, 1)


@pytest.mark.parametrize(
    "preprocessing",
    [
        WHOLE,
        replace(WHOLE, crop_pct=0.8, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        replace(WHOLE, crop_mode="squash", crop_pct=1.0, input_size=(3, 48, 64)),
    ],
)
def test_the_file_says_what_is_done_to_images(preprocessing: Preprocessing, tmp_path: Path) -> None:
    assert write_inference_yml(tmp_path, manifest_of(preprocessing))
    values = yaml.safe_load((tmp_path / FILE).read_text())
    # twice as wide: the tools round the long side, and the margins of a crop, otherwise than this project
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 120, 3), np.uint8))
    expected = preprocessing.transform()(image)
    np.testing.assert_allclose(prepared_as_paddleclas(values, image), expected, rtol=0, atol=1e-5)
    assert values["PostProcess"] == {"Topk": {"topk": 5, "label_list": list(NAMES)}}

    again = read_inference_yml(tmp_path / FILE)
    np.testing.assert_array_equal(Preprocessing(**again.preprocess).transform()(image), expected)
    assert again.class_names == NAMES
    assert again.resized_by_pillow


@pytest.mark.parametrize("crop_pct", [0.05, 0.777, 0.8749, 0.95, 0.96, 1.0])
@pytest.mark.parametrize("side", [33, 224, 384])
def test_the_resized_side_comes_back_whatever_the_rounding(crop_pct: float, side: int, tmp_path: Path) -> None:
    wanted = replace(WHOLE, crop_pct=crop_pct, input_size=(3, side, side))
    assert write_inference_yml(tmp_path, manifest_of(wanted))
    short = yaml.safe_load((tmp_path / FILE).read_text())["PreProcess"]["transform_ops"][0]["ResizeImage"][
        "resize_short"
    ]
    found = read_inference_yml(tmp_path / FILE).preprocess["crop_pct"]
    assert int(side / crop_pct) == short == int(side / found)


def test_an_export_has_the_names_that_the_tools_look_for(exported: Path) -> None:
    sha256 = read_manifest(exported).sha256
    assert sha256[FILE] == file_sha256(exported / FILE)
    for name, own in LINKS.items():
        assert file_sha256(exported / name) == sha256[own]
        assert os.path.samefile(exported / name, exported / own)  # takes no room
    assert load_bundle(exported).program().path == exported / "model.json"


def test_an_export_that_lost_its_manifest_is_not_taken_for_anothers(exported: Path, tmp_path: Path) -> None:
    """Or its parameters would be read without the hashes that only its manifest has."""
    shutil.copytree(exported, tmp_path / "copy")
    (tmp_path / "copy/export.json").unlink()
    for place in (tmp_path / "copy", tmp_path / "copy/model.pdmodel"):
        found = find_foreign(place)
        assert found is not None
        with pytest.raises(
            MissingInputError, match=r"copy/export\.json: no such file, but the folder is an export of th"
        ):
            load_foreign(found, params=None, preprocess=PreprocessOptions(), names_file=None)
    (tmp_path / "copy" / FILE).unlink()  # another's, for all that can be known
    given = PreprocessOptions(
        input_size=(3, 64, 64), crop_pct=1.0, interpolation="bicubic", mean=(0,) * 3, std=(1,) * 3
    )
    lone = find_foreign(tmp_path / "copy")
    assert lone is not None
    assert load_foreign(lone, params=None, preprocess=given, names_file=None).program.manifest.num_classes == 4


def test_an_archive_has_the_file_and_not_the_names(exported: Path) -> None:
    with zipfile.ZipFile(exported / "packed.zip") as archive:
        names = set(archive.namelist())
    assert names == {"model.json", "model.pdmodel", "model.pdiparams", FILE, "export.json"}
    bundle = load_bundle(exported / "packed.zip")
    assert file_sha256(bundle.folder / FILE) == bundle.manifest.sha256[FILE]


def test_where_there_are_no_second_names_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from util.deploy.inference_yml import link_programs

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for own in LINKS.values():
        (tmp_path / own).write_text(own)
    monkeypatch.setattr(os, "link", refuse)
    assert link_programs(tmp_path) == list(LINKS)
    assert {name: (tmp_path / name).read_text() for name in LINKS} == LINKS


def test_what_the_form_cannot_say_is_not_written_and_an_old_file_goes(exported: Path, tmp_path: Path) -> None:
    grey = replace(WHOLE, input_size=(1, 64, 64), mean=(0.5,), std=(0.5,))
    wide = replace(WHOLE, input_size=(3, 64, 96))
    for preprocessing in (grey, wide):
        assert not write_inference_yml(tmp_path, manifest_of(preprocessing))
    assert list(tmp_path.iterdir()) == []

    for name in (FILE, *LINKS):
        (tmp_path / name).write_text("of an export before")
    model = create_model("vit_s_16_224", img_size=(64, 96), embed_dim=12, num_heads=2, depth=1, num_classes=4)
    model.eval()
    export(model, manifest_of(wide), tmp_path, threads=1, sizes=[(64, 96)])
    assert sorted(os.listdir(tmp_path)) == ["export.json", "model.json", "model.pdiparams", "model.pdmodel"]


OTHERS = """
Global: {model_name: PP-LCNet_x1_0}
Hpi: {trt: {a: &id001 [1, 2], b: *id001}}
PreProcess:
  transform_ops:
  - ResizeImage: {resize_short: 256}
  - CropImage: {size: 224}
  - NormalizeImage: {channel_num: 3, order: '', scale: 0.00392157, mean: [0.1, 0.2, 0.3], std: [0.4, 0.5, 0.6]}
  - ToCHWImage: null
PostProcess:
  main_indicator: Topk
  Topk: {topk: 5, label_list: [a, 1, true]}
"""


def test_what_others_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text(OTHERS)
    found = read_inference_yml(path)
    assert found.preprocess == {
        "input_size": (3, 224, 224), "crop_mode": "center", "crop_pct": 0.875, "interpolation": "bilinear",
        "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6),
    }  # fmt: skip
    assert found.class_names == ("a", "1", "True")
    assert not found.resized_by_pillow

    path.write_text(OTHERS.replace("scale: 0.00392157, mean: [0.1, 0.2, 0.3]", "scale: 1.0, mean: [25.5, 51, 76.5]"))
    np.testing.assert_allclose(read_inference_yml(path).preprocess["mean"], (0.1, 0.2, 0.3), rtol=1e-12)
    np.testing.assert_allclose(read_inference_yml(path).preprocess["std"], np.divide((0.4, 0.5, 0.6), 255), rtol=1e-12)
    path.write_text(OTHERS.replace("{resize_short: 256}", "{size: [64, 48], backend: PIL}").replace("  - Crop", "#"))
    found = read_inference_yml(path)
    assert (found.preprocess["input_size"], found.preprocess["crop_mode"]) == ((3, 48, 64), "squash")
    assert found.resized_by_pillow


UNKNOWN: dict[str, tuple[Callable[[str], str], str]] = {
    "op": (lambda t: t.replace("- ToCHW", "- GrayImage: {}\n  - ToCHW"), "the transform 'GrayImage' is not known here"),
    "argument": (lambda t: t.replace("size: 224", "size: 224, pad: 3"), "CropImage with 'pad' is not known here"),
    "area": (lambda t: t.replace("256", "256, interpolation: area"), "ResizeImage with 'area' of 'cv2' is not known"),
    "backend": (lambda t: t.replace("256", "256, backend: x"), "ResizeImage with 'bilinear' of 'x' is not known"),
    "order": (lambda t: t.replace("- CropImage: {size: 224}", "").replace("- ToCHWImage: null",
              "- ToCHWImage: null\n  - CropImage: {size: 224}"), "the transforms must be DecodeImage, ResizeImage, "),
    "twice": (lambda t: t.replace("- ToCHWImage: null", "- ToCHWImage: null\n  - ToCHWImage: null"), "transforms must"),
    "no normalising": (lambda t: t.replace("  - Normalize", "#"), "the transforms must be"),
    "oblong": (lambda t: t.replace("size: 224", "size: [224, 192]"), "expected ResizeImage with resize_short and a"),
    "larger": (lambda t: t.replace("size: 224", "size: 300"), "expected ResizeImage with resize_short and a CropIm"),
    "uncropped": (lambda t: t.replace("  - Crop", "#"), "expected ResizeImage with resize_short and a CropImage"),
    "size": (lambda t: t.replace("size: 224", "size: x"), "a size is a positive integer; got 'x'"),
    "BGR": (lambda t: t.replace("- Resize", "- DecodeImage: {to_rgb: false}\n  - Resize", 1), "another order of chan"),
    "chw": (lambda t: t.replace("order: ''", "order: chw"), "another order of axes"),
    "half": (lambda t: t.replace("order: ''", "output_fp16: true"), "NormalizeImage gives float16"),
    "code": (lambda t: t.replace("0.00392157", "__import__('os').abort()"), "with the scale .* is not known here"),
    "one mean": (lambda t: t.replace("[0.1, 0.2, 0.3]", "[0.1]"), "NormalizeImage has 1 numbers as mean, expected 3"),
    "std of 0": (lambda t: t.replace("[0.4, 0.5, 0.6]", "[0.4, 0.5, 0]"), "std is positive"),
    "post": (lambda t: t.replace("Topk: {topk", "MultiLabelThreshOutput: {topk"), "post-processing 'MultiLabelThresh"),
    "names": (lambda t: t.replace("[a, 1, true]", "7"), "a label_list that is no list of names"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_is_not_known_is_not_guessed(case: str, tmp_path: Path) -> None:
    change, match = UNKNOWN[case]
    text = change(OTHERS)
    assert text != OTHERS
    (tmp_path / FILE).write_text(text)
    with pytest.raises(WeightsError, match=match) as caught:
        read_inference_yml(tmp_path / FILE)
    assert str(caught.value).endswith("; give the preprocessing on the command line, without this file")
    assert "\n" not in str(caught.value)


JOINED = "a0: &a0 {k: 1}\n" + "".join(f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 9)}]}}\n" for i in range(9))


@pytest.mark.parametrize(
    "text", ["", "- 1", "PreProcess: 3", "a: [", "[" * 5000, "!!python/object/apply:os.abort []", JOINED + OTHERS]
)
def test_what_has_not_the_form_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(WeightsError, match=r"inference\.yml: is not in the form of PaddleX and PaddleClas$"):
        read_inference_yml(tmp_path / FILE)


def test_bytes_that_are_no_text_and_a_fifo_are_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_inference_yml(tmp_path / FILE)
    (tmp_path / FILE).unlink()
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(DataError, match="is not a regular file"):
        read_inference_yml(tmp_path / FILE)


def test_any_change_of_the_file_is_read_or_is_a_user_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(300):
        text = bytearray(OTHERS.encode())
        for at in rng.integers(len(text), size=3):
            text[at] = rng.integers(32, 127)
        (tmp_path / FILE).write_bytes(text)
        try:
            read_inference_yml(tmp_path / FILE)
            outcomes.append("read")
        except WeightsError as error:
            outcomes.append("refused" if "\n" not in str(error) else "lines")
    assert {"read", "refused"} == set(outcomes)
