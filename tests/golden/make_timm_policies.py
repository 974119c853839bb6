"""Writes timm_policies.npz: what timm and torchvision make of a picture, and how their random numbers are distributed.

    pip install timm==1.0.31 torch torchvision Pillow==13.0.0    # in an environment of its own
    python -m tests.golden.make_timm_policies                    # in the repository's root

README.md beside this file explains the arrays. Tests need neither timm nor this script.
"""

import inspect
import json
import random
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import PIL
import timm  # type: ignore[import-not-found]
import torch  # type: ignore[import-not-found]
import torchvision  # type: ignore[import-not-found]
from PIL import Image
from timm.data import auto_augment as reference  # type: ignore[import-not-found]
from timm.data import mixup, random_erasing, transforms, transforms_factory
from torchvision.transforms import InterpolationMode, autoaugment  # type: ignore[import-not-found]
from torchvision.transforms import functional as tv

from tests.reference import GOLDEN, picture

SIZE = (16, 24)  # height, width
FILL = (124, 116, 104)
SOURCE = Image.fromarray(picture(*SIZE, 5))
BILINEAR = Image.Resampling.BILINEAR
HPARAMS: dict[str, Any] = {"translate_const": 10, "img_mean": FILL, "interpolation": BILINEAR}
GRID = 64  # points at which a distribution function is stored
DRAWS = 100_000
AREA = (60, 80)  # height and width of the images of erasing and mixing

Arrays = dict[str, np.ndarray]


class FixedRandom:
    """Stands for the module `random` inside timm: every number drawn is the same."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        return self.number

    def uniform(self, low: float, high: float) -> float:
        return min(high, max(low, self.number))


def posterize(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    """timm's, and for 0 bits the black picture that Pillow gave before version 13; timm fails there since."""
    if bits_to_keep == 0:
        return Image.new("RGB", image.size)
    return reference.posterize(image, bits_to_keep)


def run(op: Any, image: Image.Image, *, negate: bool) -> tuple[Image.Image, list[float]]:
    """Applies one of timm's operations for certain, with a known sign; returns also the arguments that it was given."""
    given: list[float] = []
    apply: Callable[..., Image.Image] = posterize if op.name.startswith("Posterize") else op.aug_fn

    def record(picture: Image.Image, *arguments: float, **options: Any) -> Image.Image:
        given.extend(arguments)
        return apply(picture, *arguments, **options)

    with (
        mock.patch.object(op, "aug_fn", record),
        mock.patch.object(op, "prob", 1.0),
        mock.patch.object(reference, "random", FixedRandom(0.75 if negate else 0.25)),
    ):
        return op(image), given


def operations() -> Arrays:
    """Each operation at two magnitudes and in both directions."""
    arrays: Arrays = {}
    left_out = {"TranslateX", "TranslateY", "Desaturate", "GaussianBlur", "GaussianBlurRand"}  # in no policy, or below
    for name in sorted(set(reference.NAME_TO_OP) - left_out):
        for magnitude in (2, 7):
            for negate in (False, True):
                op = reference.AugmentOp(name, 1.0, magnitude, HPARAMS)
                image, given = run(op, SOURCE, negate=negate)
                argument = repr(float(given[0])) if given else ""
                arrays[f"operation|{name}|{magnitude}|{argument}"] = np.asarray(image)
    return arrays


def auto_augment() -> Arrays:
    """Each pair of operations of each policy, both applied, the direction of odd pairs negative.

    v0r and originalr differ from v0 and original in the pairs that posterise: only those.
    """
    arrays: Arrays = {}
    policies = {name: reference.auto_augment_policy(name, HPARAMS) for name in ("v0", "v0r", "original", "originalr")}
    for name, policy in policies.items():
        for i, pair in enumerate(policy):
            if name.endswith("r") and not any(op.name.startswith("Posterize") for op in pair):
                continue
            image = SOURCE
            for op in pair:
                image, _ = run(op, image, negate=i % 2 == 1)
            arrays[f"pair|{name}|{i}"] = np.asarray(image)
    plain = {name: [[(op.name, op.prob, op.magnitude) for op in p] for p in ps] for name, ps in policies.items()}
    return arrays | {"policies": np.array(json.dumps(plain))}


def rand_augment() -> Arrays:
    """Which operations RandAugment and AugMix choose from."""
    names = {
        text: [op.name for op in reference.rand_augment_transform(text, dict(HPARAMS)).ops]
        for text in ("rand", "rand-inc1")
    }
    names["augmix"] = [op.name for op in reference.augment_and_mix_transform("augmix", dict(HPARAMS)).ops]
    return {"choices": np.array(json.dumps(names))}


def recorded(op: Any, applied: list[tuple[str, float | None]]) -> Callable[..., Image.Image]:
    """Returns what applies one of timm's operations and notes its name and argument."""
    apply, name = op.aug_fn, op.name

    def record(image: Image.Image, *arguments: float, **options: Any) -> Image.Image:
        applied.append((name, arguments[0] if arguments else None))
        return apply(image, *arguments, **options)

    return record


def aug_mix() -> Arrays:
    """Three mixtures with what was drawn for them: weights, ratio, and the operations of each chain."""
    arrays: Arrays = {}
    for seed, (width, depth, magnitude) in enumerate(((3, 2, 3), (1, 3, 10), (5, 1, 7))):
        transform = reference.augment_and_mix_transform(
            f"augmix-m{magnitude}-w{width}-d{depth}", dict(HPARAMS, translate_pct=0.3)
        )
        applied: list[tuple[str, float | None]] = []
        for op in transform.ops:
            op.aug_fn = recorded(op, applied)
        random.seed(seed)
        np.random.seed(seed)
        weights, ratio = np.random.dirichlet([1.0] * width), np.random.beta(1.0, 1.0)
        np.random.seed(seed)  # the same numbers again, for timm
        arrays[f"augmix|{seed}"] = np.asarray(transform(SOURCE))
        chains = [applied[i : i + depth] for i in range(0, len(applied), depth)]
        plan = {"weights": weights.tolist(), "ratio": ratio, "chains": chains}
        arrays[f"augmix|{seed}|plan"] = np.array(json.dumps(plan))
    return arrays


def three_augment() -> Arrays:
    """The three operations, the blur with a radius of 1.3."""
    arrays: Arrays = {}
    with mock.patch.object(reference, "random", FixedRandom(1.3)):
        for name, (op,) in zip(("solarize", "grey", "blur"), reference.auto_augment_policy("3a", HPARAMS), strict=True):
            arrays[f"3a|{name}"] = np.asarray(op(SOURCE))
    return arrays


def trivial_augment() -> Arrays:
    """torchvision's strengths, and its pictures at two of them in both directions."""
    arrays: Arrays = {}
    space = autoaugment.TrivialAugmentWide()._augmentation_space(31)
    table = {name: (values.tolist() if values.ndim else None, signed) for name, (values, signed) in space.items()}
    arrays["trivial_strengths"] = np.array(json.dumps(table))
    for name, (values, signed) in table.items():
        for strength in (11, 30):
            for sign in (1, -1) if signed else (1,):
                magnitude = 0.0 if values is None else sign * values[strength]
                image = autoaugment._apply_op(SOURCE, name, magnitude, InterpolationMode.BILINEAR, list(FILL))
                arrays[f"trivial|{name}|{strength}|{sign}"] = np.asarray(image)
    return arrays


def colours() -> Arrays:
    """Jitter by 1.3, 0.7 and 1.2 in the order saturation, brightness, contrast; grey; blurs."""
    jittered = tv.adjust_contrast(tv.adjust_brightness(tv.adjust_saturation(SOURCE, 1.2), 1.3), 0.7)
    arrays = {"jitter": np.asarray(jittered), "grey": np.asarray(tv.rgb_to_grayscale(SOURCE, 3))}
    for sigma in (0.1, 0.6, 2.0):
        arrays[f"blur|{sigma}"] = np.asarray(tv.gaussian_blur(SOURCE, [23, 23], [sigma, sigma]))
    return arrays


def distribution(name: str, samples: np.ndarray, low: float, high: float) -> Arrays:
    """The distribution function of samples at points from `low` to `high`, none of which a sample can be."""
    grid = np.linspace(low, high, GRID + 2)[1:-1] + 1e-5
    return {f"cdf|{name}|at": grid, f"cdf|{name}": (samples[:, None] <= grid).mean(axis=0)}


def crops() -> Arrays:
    """Boxes of the random resized crop in a picture of 300 x 500."""
    image = Image.new("RGB", (500, 300))
    random.seed(0)
    draw = transforms.RandomResizedCropAndInterpolation.get_params
    top, left, height, width = np.array([draw(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(DRAWS)]).T
    return {
        **distribution("crop_area", height * width / 150_000, 0.0, 1.0),
        **distribution("crop_log_ratio", np.log(width / height), -0.3, 0.3),
        **distribution("crop_left", left, -0.5, 400.5),
        **distribution("crop_top", top, -0.5, 250.5),
    }


def erasing() -> Arrays:
    """Erased part of the image, and how often each part of it is erased, for one box and for up to three."""
    arrays: Arrays = {}
    random.seed(0)
    for name, options in {
        "one": {},
        "three": {"max_count": 3},
        "two_or_three": {"min_count": 2, "max_count": 3},
    }.items():
        erase = random_erasing.RandomErasing(1.0, mode="const", device="cpu", **options)
        masks = np.stack([erase(torch.ones(1, *AREA)).numpy()[0] == 0 for _ in range(DRAWS // 5)])
        arrays |= distribution(f"erased_{name}", masks.mean(axis=(1, 2)), 0.0, 0.35)
        arrays[f"coverage|erased_{name}"] = masks.mean(axis=0)[::6, ::8]
    return arrays


MIXES: dict[str, dict[str, Any]] = {
    "mixup": {"mixup_alpha": 0.8},
    "cutmix": {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
    "minmax": {"mixup_alpha": 0.0, "cutmix_minmax": (0.2, 0.8)},
    "both": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "switch_prob": 0.3, "prob": 0.9},
}


def mixing() -> Arrays:
    """The part that stays of an image, in each mode, and how often each pixel is pasted over by cutmix."""
    arrays: Arrays = {}
    np.random.seed(0)
    for name, options in MIXES.items():
        mixer = mixup.FastCollateMixup(num_classes=2, label_smoothing=0.0, **options)
        marked = torch.cat([torch.zeros(4, 1, *AREA), torch.ones(4, 1, *AREA)])
        kept, pasted = [], []
        for _ in range(DRAWS // 20):
            images = marked.clone()
            kept.append(float(mixer._mix_batch(images)))
            pasted.append(images[0, 0].numpy())
        arrays |= distribution(f"{name}_batch", np.array(kept), 0.0, 1.0)
        if name in ("cutmix", "minmax"):
            arrays[f"coverage|{name}"] = np.mean(pasted, axis=0)[::6, ::8]
        batch = [(image, 0) for image in torch.ones(64, 1, *AREA, dtype=torch.uint8).numpy()]
        pairs = [mixer._mix_pair(torch.ones(64, 1, *AREA)).numpy()[:32, 0] for _ in range(DRAWS // 320)]
        elems = [mixer._mix_elem(torch.ones(64, 1, *AREA)).numpy()[:, 0] for _ in range(DRAWS // 640)]
        output = torch.zeros(32, 1, *AREA, dtype=torch.uint8)
        halves = [
            mixer._mix_elem_collate(output.clone(), batch, half=True).numpy()[:32, 0] for _ in range(DRAWS // 320)
        ]
        for mode, samples in {"pair": pairs, "elem": elems, "half": halves}.items():
            arrays |= distribution(f"{name}_{mode}", np.concatenate(samples), 0.0, 1.0)
    return arrays


def defaults() -> Arrays:
    """The defaults of timm's functions, and the versions."""

    def of(function: Any) -> dict[str, Any]:
        parameters = inspect.signature(function).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}

    rand, mix = reference.rand_augment_transform("rand"), reference.augment_and_mix_transform("augmix")
    plain = {
        "create_transform": of(transforms_factory.create_transform),
        "RandomErasing": of(random_erasing.RandomErasing),
        "RandomResizedCrop": of(transforms.RandomResizedCropAndInterpolation),
        "Mixup": of(mixup.Mixup),
        "rand": {"num_ops": rand.num_layers, "prob": rand.ops[0].prob, "magnitude": rand.ops[0].magnitude},
        "augmix": {
            "width": mix.width, "alpha": mix.alpha, "depth": mix.depth, "magnitude": mix.ops[0].magnitude,
            "magnitude_std": mix.ops[0].magnitude_std,
        },
    }  # fmt: skip
    versions = {module.__name__: module.__version__ for module in (timm, torch, torchvision, PIL, np)}
    return {"defaults": np.array(json.dumps(plain)), "versions": np.array(json.dumps(versions))}


def main() -> None:
    makers = (operations, auto_augment, rand_augment, aug_mix, three_augment, trivial_augment, colours, crops, erasing)
    arrays: Arrays = {"picture": np.asarray(SOURCE)}
    for make in (*makers, mixing, defaults):
        arrays |= make()
    for name, values in arrays.items():
        if values.dtype == np.float64:
            arrays[name] = values.astype(np.float32)
    np.savez_compressed(GOLDEN / "timm_policies.npz", **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
