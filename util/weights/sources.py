"""Where published weights are: address, licence and accuracy of each file that `--pretrained NAME` can fetch.

Nothing here was downloaded: the entries were read from the projects' own pages. Addresses and digests of MindCV's files
(their names end in the first digits of the sha256, says its configs/README.md) are from mindcv/models/vit.py,
configs/convit/README.md and configs/vit/README.md, each accuracy from the row of the same file; preprocessing from its
configs and config.py. PaddleClas's are from ppcls/arch/backbone/model_zoo and docs/zh_CN/models/ImageNet1k, which has
no figures for CvT. Those on Hugging Face are from the file lists of each repository there, which state the licence and
a rounded size, and for five files the digest or a fixed revision. timm's accuracies are from its results-imagenet.csv,
those of the official CvT weights from microsoft/CvT's README. What no page says is None. The beginning of a digest
shows damage; it does not keep a forger out.

Licences are quoted, not judged: the pages of timm's ConViT say apache-2.0, and so does the LICENSE of
facebookresearch/convit, where the weights come from, but the headers of that project's files say CC-BY-NC. All weights
were trained on ImageNet, which was released for non-commercial research.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from util.errors import UsageError
from util.tables import table_text

HUB = "https://huggingface.co"
BCEBOS = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph"
MINDSPORE = "https://download.mindspore.cn/toolkits/mindcv"
SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
APACHE = "apache-2.0"
PROJECT_APACHE = "not stated (project: Apache-2.0)"
IMAGENET_MEAN_STD = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One published file."""

    name: str  # "<model>.<tag>"
    model: str  # the registry's name
    url: str
    file: str  # its name in the cache
    sha256: str | None = None  # lower-case hex: the digest, or as many of its first digits as are published
    megabytes: float | None = None  # 1e6 bytes, rounded as the page shows it
    licence: str  # of the weights, as the source says
    origin: str  # project, and repository there
    top1: float | None = None  # percent, ImageNet-1k validation
    top5: float | None = None
    measured_by: str | None = None  # whose figures those are
    preprocess: Mapping[str, Any] = field(default_factory=dict)  # where it differs from what the model's name implies


def _on_hub(name: str, repository: str, weights: str, megabytes: float | None, *, revision: str = "main") -> Source:
    """A file in a repository on Hugging Face; all that are listed below are marked apache-2.0 there."""
    return Source(
        name=name,
        model=name.partition(".")[0],
        url=f"{HUB}/{repository}/resolve/{revision}/{weights}",
        file=f"{name}.{weights.rpartition('.')[2]}",
        megabytes=megabytes,
        licence=APACHE,
        origin=f"Hugging Face {repository}",
    )


def _microsoft(
    name: str, repository: str, megabytes: float, top1: float, *, weights: str = BIN, revision: str = "main"
) -> Source:
    """The official weights of CvT, in Microsoft's own repositories."""
    source = _on_hub(name, f"microsoft/{repository}", weights, megabytes, revision=revision)
    return replace(source, top1=top1, measured_by="microsoft/CvT")


def _timm(
    name: str, timm_name: str, megabytes: float | None, top1: float, top5: float, *, revision: str = "main"
) -> Source:
    """timm's copies; a name's tag is theirs."""
    source = _on_hub(name, f"timm/{timm_name}.{name.partition('.')[2]}", SAFETENSORS, megabytes, revision=revision)
    return replace(source, top1=top1, top5=top5, measured_by="timm")


def _google(name: str, repository: str, weights: str, megabytes: float, *, revision: str = "main") -> Source:
    """Google's ViT as Hugging Face's own processor feeds it: resized to a square, bilinear."""
    squash = {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"}
    return replace(_on_hub(name, f"google/{repository}", weights, megabytes, revision=revision), preprocess=squash)


def _elsewhere(name: str, url: str, origin: str) -> Source:
    """A file on a project's own server, which says neither its size nor its licence."""
    return Source(
        name=name,
        model=name.partition(".")[0],
        url=url,
        file=f"{name}.{url.rpartition('.')[2]}",
        licence=PROJECT_APACHE,
        origin=origin,
    )


def _paddleclas(
    model: str,
    their_name: str,
    *,
    top1: float | None = None,
    top5: float | None = None,
    preprocess: Mapping[str, Any] | None = None,
) -> Source:
    source = _elsewhere(f"{model}.paddleclas", f"{BCEBOS}/{their_name}_pretrained.pdparams", "PaddleClas")
    measured_by = None if top1 is None else source.origin
    return replace(source, top1=top1, top5=top5, measured_by=measured_by, preprocess=preprocess or {})


def _mindcv(
    model: str, sha256: str, top1: float, top5: float, *, preprocess: Mapping[str, Any] | None = None
) -> Source:
    """MindCV's first files of each model; their names carry the first digits of the sha256."""
    source = _elsewhere(f"{model}.mindcv", f"{MINDSPORE}/{model.partition('_')[0]}/{model}-{sha256}.ckpt", "MindCV")
    return replace(source, sha256=sha256, top1=top1, top5=top5, measured_by=source.origin, preprocess=preprocess or {})


# of one model the first is the default
CVT = (
    _microsoft("cvt_13_224x224.microsoft", "cvt-13", 80.2, 81.6, weights=SAFETENSORS),
    _paddleclas("cvt_13_224x224", "CvT_13_224"),
    replace(
        _microsoft(
            "cvt_13_384x384.microsoft", "cvt-13-384", 80.3, 83.0,
            revision="6b56920ff45ddf23d6b3a6033f4a9d1fd411e8c8",
        ),
        sha256="bac7a58899c41b4cd90bfded50f1d4e1cf283c2d3255e3fce7ff7350e0d23438",
    ),
    _microsoft("cvt_13_384x384.microsoft_22k", "cvt-13-384-22k", 80.3, 83.3),
    _paddleclas("cvt_13_384x384", "CvT_13_384"),
    _microsoft("cvt_21_224x224.microsoft", "cvt-21", 127, 82.5),
    _paddleclas("cvt_21_224x224", "CvT_21_224"),
    replace(
        _microsoft(
            "cvt_21_384x384.microsoft", "cvt-21-384", 127, 83.3,
            revision="dd47b76270a968cfc654b6022d39693211067dc2",
        ),
        sha256="c19b5977814f89e610d6e8e30582586ff02168a7e8dcd7a117aa9fa5a234e051",
    ),
    _microsoft("cvt_21_384x384.microsoft_22k", "cvt-21-384-22k", 127, 84.9),
    _paddleclas("cvt_21_384x384", "CvT_21_384"),
    _microsoft("cvt_w24_384x384.microsoft_22k", "cvt-w24-384-22k", 1110, 87.6),
    _paddleclas("cvt_w24_384x384", "CvT_W24_384"),
)  # fmt: skip

CONVIT = (
    _timm(
        "convit_tiny.fb_in1k", "convit_tiny", 22.9, 73.140, 91.704,
        revision="fc81905f258732e94e40076f0f80a109685996b9",
    ),
    _mindcv("convit_tiny", "e31023f2", 73.66, 91.72),
    _mindcv("convit_tiny_plus", "e9d7fb92", 77.00, 93.60, preprocess={"crop_pct": 0.87}),
    _timm("convit_small.fb_in1k", "convit_small", 111, 81.412, 95.740),
    _mindcv("convit_small", "ba858604", 81.63, 95.59, preprocess={"crop_pct": 0.915}),
    _mindcv("convit_small_plus", "2352b9f7", 81.80, 95.42, preprocess={"crop_pct": 0.93}),
    _timm(
        "convit_base.fb_in1k", "convit_base", 346, 82.296, 95.936,
        revision="c93eea8ccd421f7e9a7baa1a8357b15ad7246ec5",
    ),
    _mindcv("convit_base", "c61b808c", 82.10, 95.52, preprocess={"crop_pct": 0.93}),
    _mindcv("convit_base_plus", "5c61c9ce", 81.96, 95.04, preprocess={"crop_pct": 0.925}),
)  # fmt: skip

PADDLECLAS_224 = {"crop_pct": 0.875, "interpolation": "bilinear"}
PADDLECLAS_384 = {"interpolation": "bilinear"}
MINDCV_VIT = {"crop_pct": 0.875, **IMAGENET_MEAN_STD}

VIT = (
    _timm("vit_ti_16_224.augreg_in21k_ft_in1k", "vit_tiny_patch16_224", 22.9, 75.452, 92.858),
    _timm("vit_s_16_224.augreg_in21k_ft_in1k", "vit_small_patch16_224", None, 81.402, 96.150),
    _timm("vit_s_16_224.augreg_in1k", "vit_small_patch16_224", 88.2, 78.842, 94.280),
    _timm("vit_b_16_224.augreg_in21k_ft_in1k", "vit_base_patch16_224", 346, 84.534, 97.300),
    _timm("vit_b_16_224.augreg2_in21k_ft_in1k", "vit_base_patch16_224", 346, 85.108, 97.530),
    _google("vit_b_16_224.google", "vit-base-patch16-224", SAFETENSORS, 346),
    _paddleclas("vit_b_16_224", "ViT_base_patch16_224", top1=81.95, top5=96.17, preprocess=PADDLECLAS_224),
    _timm("vit_b_16_384.augreg_in21k_ft_in1k", "vit_base_patch16_384", 347, 86.010, 97.998),
    _google("vit_b_16_384.google", "vit-base-patch16-384", SAFETENSORS, 347),
    _paddleclas("vit_b_16_384", "ViT_base_patch16_384", top1=84.14, top5=97.17, preprocess=PADDLECLAS_384),
    _timm("vit_b_32_224.augreg_in21k_ft_in1k", "vit_base_patch32_224", None, 80.732, 95.574),
    _timm("vit_b_32_224.augreg_in1k", "vit_base_patch32_224", 353, 74.908, 91.770),
    _mindcv("vit_b_32_224", "4a1c9d8e", 77.45, 93.27, preprocess=MINDCV_VIT),
    _timm("vit_b_32_384.augreg_in21k_ft_in1k", "vit_base_patch32_384", None, 83.358, 96.828),
    _google(
        "vit_b_32_384.google", "vit-base-patch32-384", SAFETENSORS, 353,
        revision="d285164d04ed60526ea1b462ba8cc7afbe53a31b",
    ),
    _paddleclas("vit_b_32_384", "ViT_base_patch32_384", top1=81.76, top5=96.13, preprocess=PADDLECLAS_384),
    _timm("vit_l_16_224.augreg_in21k_ft_in1k", "vit_large_patch16_224", 1220, 85.856, 97.822),
    _google("vit_l_16_224.google", "vit-large-patch16-224", BIN, 1220),
    _paddleclas("vit_l_16_224", "ViT_large_patch16_224", top1=83.23, top5=96.50, preprocess=PADDLECLAS_224),
    _mindcv("vit_l_16_224", "d2635f8b", 81.25, 95.53, preprocess=MINDCV_VIT),
    _timm("vit_l_16_384.augreg_in21k_ft_in1k", "vit_large_patch16_384", 1220, 87.096, 98.302),
    _google("vit_l_16_384.google", "vit-large-patch16-384", BIN, 1220),
    _paddleclas("vit_l_16_384", "ViT_large_patch16_384", top1=85.13, top5=97.36, preprocess=PADDLECLAS_384),
    _mindcv("vit_l_32_224", "8c8ea164", 74.57, 91.01, preprocess=MINDCV_VIT),
)  # fmt: skip

SOURCES: tuple[Source, ...] = (*CVT, *CONVIT, *VIT)


def list_sources(model: str | None = None) -> tuple[Source, ...]:
    """Returns every source, or those of one model, the default first."""
    return tuple(source for source in SOURCES if model in (None, source.model))


def find_source(name: str) -> Source | None:
    """Returns the source of that name, or the default one of a model of that name; None for any other text."""
    by_name = {source.name: source for source in SOURCES}
    return by_name.get(name) or next(iter(list_sources(name)), None)


def require_source(name: str) -> Source:
    """Returns `find_source`; an unknown name is a UsageError that lists the nearest."""
    source = find_source(name)
    if source is None:
        known = [source.name for source in SOURCES]
        beginning = [k for k in known if k.startswith(name.partition(".")[0] + ".")]
        near = beginning or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"nearest: {', '.join(near)}; " if near else ""
        raise UsageError(f"no published weights are called {name!r}; {hint}--pretrained list shows all")
    return source


def sources_table() -> str:
    """Returns what can be fetched, as aligned text with a heading."""
    heading = ("name", "file", "MB", "top-1", "top-5", "measured by", "licence", "origin", "sha256")
    rows = [heading, *(_row(source) for source in SOURCES)]
    return table_text(rows, "<" * len(heading))


def list_if_asked(pretrained: str | None) -> bool:
    """Prints the table if that is what `--pretrained list` asks for, and returns whether it did."""
    if pretrained != "list":
        return False
    print(sources_table())
    return True


def _row(source: Source) -> tuple[str, ...]:
    return (
        source.name,
        source.url.rpartition("/")[2],
        "-" if source.megabytes is None else f"{source.megabytes:.4g}",
        "-" if source.top1 is None else f"{source.top1:.2f}",
        "-" if source.top5 is None else f"{source.top5:.2f}",
        source.measured_by or "-",
        source.licence,
        source.origin,
        "-" if source.sha256 is None else f"{source.sha256[:8]}...",
    )
