"""visualize.py and predict.py --draw, called as a user calls them."""

import ast
import os
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

import predict
import visualize
from models import create_model
from tests.checkpoints import PREPROCESS, write_checkpoint
from tests.scripts.run import last_error, run
from tests.trees import write_picture
from util.errors import UserError
from util.weights.container import write_container

NAMES = ["猫, cat", "狗, dog", "plain"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pictures of one name, and checkpoints of CvT and ConViT with classes in Chinese."""
    folder = tmp_path_factory.mktemp("seeing")
    write_picture(folder / "one/a.png", seed=1)
    write_picture(folder / "two/a.jpg", seed=2, size=(50, 30))
    write_checkpoint(folder / "cvt.safetensors", names=NAMES)
    paddle.seed(0)
    model = create_model("convit_tiny", num_classes=3, img_size=(32, 32))
    state = {
        "model": {"name": "convit_tiny", "num_classes": 3}, "preprocess": PREPROCESS,
        "classes": {"folders": None, "names": ["x", "y", "z"]},
    }  # fmt: skip
    write_container(
        folder / "convit.safetensors", {f"model/{name}": x.numpy() for name, x in model.state_dict().items()}, state
    )
    return folder


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_cvt_with_an_unreadable_image(place: Path) -> None:
    (place / "broken.png").write_bytes(b"no image")
    done = run("visualize.py", "--infer_imgs", "one", "broken.png", "two", "--resume", "cvt.safetensors", "--output",
               "cvt", "--save_maps", "--class_id", "2", cwd=place, code=65)  # fmt: skip
    assert "1 of 3 images could not be read" in last_error(done)
    assert "broken.png: is not an image" in done.stderr
    kinds = ("class_attention.png", "grad_cam.png", "maps.npz", "rollout.png", "sheet.png")
    assert names_in(place / "cvt") == [f"{stem}_{kind}" for stem in ("a-2", "a") for kind in kinds]
    predicted = ast.literal_eval(
        run("predict.py", "--infer_imgs", "one", "two", "--resume", "cvt.safetensors", cwd=place).stdout
    )
    expected = [
        f"{p['file_name']}: {p['label_names'][0]} ({100 * p['scores'][0]:.2f} %), cvt/{stem}_sheet.png"
        for p, stem in zip(predicted, ("a", "a-2"), strict=True)
    ]
    assert done.stdout.splitlines() == expected
    with np.load(place / "cvt/a_maps.npz") as maps:
        assert {name: maps[name].shape for name in maps} == {
            "class_attention": (4, 4, 4), "rollout": (4, 4), "grad_cam": (4, 4), "class_id": ()
        }  # fmt: skip
        assert int(maps["class_id"]) == 2
        assert 0.3 < maps["rollout"].sum() < 1.0


def test_convit_has_gates_and_positions_too(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--infer_imgs", str(place / "one"), "--resume", str(place / "convit.safetensors"), "--output"]
    visualize.main([*arguments, str(place / "all"), "--kind", "rollout", "--alpha", "0"])
    assert names_in(place / "all") == ["a_rollout.png", "a_sheet.png", "gates.png", "positions.png"]
    assert capsys.readouterr().out.endswith(f"{place}/all/a_sheet.png\n")
    with Image.open(place / "all/a_rollout.png") as drawn:  # alpha 0: the crop that the model saw, enlarged
        seen = np.asarray(drawn)[2::4, 2::4].astype(int)
    with Image.open(place / "one/a.png") as picture:
        assert np.abs(seen - np.asarray(picture.crop((4, 0, 36, 32)))).max() <= 1
    first = (place / "all/gates.png").read_bytes()
    visualize.main([*arguments, str(place / "all"), "--kind", "rollout"])  # again: files are replaced, none is added
    assert names_in(place / "all") == ["a_rollout.png", "a_sheet.png", "gates.png", "positions.png"]
    assert (place / "all/gates.png").read_bytes() == first


def test_a_name_that_is_no_text_keeps_to_its_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    os.makedirs("odd", exist_ok=True)
    shutil.copy(b"one/a.png", b"odd/a\nb\xff.png")
    visualize.main(["--infer_imgs", "odd", "--resume", "cvt.safetensors", "--output", "drawn_odd", "--kind", "rollout"])
    said = capsys.readouterr()
    assert said.out.startswith("odd/a\\nb\\udcff.png: ")
    assert said.out.endswith(" %), drawn_odd/a\\nb\\udcff_sheet.png\n")
    assert said.out.count("\n") == 1
    assert "no font here has" in said.err
    assert len(os.listdir(b"drawn_odd")) == 2


REFUSED: dict[str, tuple[list[str], int, str]] = {
    "no images": (["--infer_imgs"], 2, "expected at least one argument"),
    "no such class": (["--class_id", "3"], 2, "--class_id 3: cvt_nano_32x32 has the classes 0 to 2"),
    "a file": (["--output", "one/a.png"], 73, "one/a.png: cannot be written"),
    "no font": (["--font", "cvt.safetensors"], 2, "not a font that Pillow can read"),
    "unknown map": (["--kind", "saliency"], 2, "--kind is one of class_attention, rollout, grad_cam; got 'saliency'"),
    "more than all": (["--alpha", "1.5"], 2, "alpha must be in [0, 1]; got 1.5"),
    "a negative class": (["--class_id", "-1"], 2, "class_id must be at least 0; got -1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_drawn_is_refused(place: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    arguments, code, said = REFUSED[case]
    before = set(place.rglob("*"))
    with pytest.raises(UserError) as error:
        visualize.main(["--infer_imgs", "one", "--resume", "cvt.safetensors", "--output", "new", *arguments])
    assert said in str(error.value)
    assert error.value.exit_code == code
    assert set(place.rglob("*")) == before


def test_predict_draws_and_prints_the_same(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    arguments = ["--infer_imgs", "one", "two", "--resume", "cvt.safetensors"]
    predict.main(arguments)
    plain = capsys.readouterr()
    predict.main([*arguments, "--draw", "drawn"])
    drawn = capsys.readouterr()
    assert len(ast.literal_eval(drawn.out)) == 2
    assert drawn.out == plain.out
    assert "2 pictures in drawn" in drawn.err
    assert names_in(place / "drawn") == ["a-2.png", "a.png"]
    with Image.open(place / "drawn/a.png") as picture:
        assert picture.width == 480
    with pytest.raises(UserError, match=r"one/a\.png: cannot be written"):
        predict.main([*arguments, "--draw", "one/a.png"])
