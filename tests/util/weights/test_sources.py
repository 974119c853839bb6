"""The list of published weights: what each entry must be, and how names are found."""

from urllib.parse import urlsplit

import pytest

from models import list_models, model_defaults
from util.data.preprocessing import resolve_preprocessing
from util.errors import UsageError
from util.options import PreprocessOptions
from util.weights.sources import SOURCES, Source, find_source, list_sources, require_source, sources_table

NAMES = [source.name for source in SOURCES]


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_an_entry_is_of_its_form(source: Source) -> None:
    assert source.model in list_models()
    assert source.name.startswith(f"{source.model}.")
    assert source.file.startswith(f"{source.name}.")
    assert "/" not in source.file
    address = urlsplit(source.url)
    assert (address.scheme, address.query, address.fragment) == ("https", "", "")
    assert source.file.rpartition(".")[2] == address.path.rpartition(".")[2]
    assert source.licence
    assert source.origin
    assert source.megabytes is None or 10 < source.megabytes < 3000
    if source.sha256 is not None:
        assert 8 <= len(source.sha256) <= 64
        assert set(source.sha256) <= set("0123456789abcdef")


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_an_accuracy_is_plausible_and_somebodys(source: Source) -> None:
    assert (source.top1 is None) == (source.measured_by is None)
    assert source.top1 is None or 70 < source.top1 < 90
    assert source.top5 is None or (source.top1 is not None and source.top1 < source.top5 < 99)


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_preprocess_says_only_what_differs_from_the_name(source: Source) -> None:
    implied = model_defaults(source.model)
    assert source.preprocess.keys() <= implied.keys()
    resolved = resolve_preprocessing(PreprocessOptions(), implied, source.preprocess).to_plain()
    own = resolve_preprocessing(PreprocessOptions(), implied).to_plain()
    differing = {key for key in own if resolved[key] != own[key]}
    # a squash at 384 has the crop_pct that the name implies there
    assert source.preprocess.keys() - {"crop_pct"} == differing - {"crop_pct"}
    assert differing <= source.preprocess.keys()


def test_the_rounded_size_is_that_of_the_parameters() -> None:
    """A file of fp32 values is as large as the model: an entry of another model would show."""
    millions = {
        "cvt_13": 20.02, "cvt_21": 31.66, "cvt_w24": 277.3, "convit_tiny.": 5.71, "convit_small.": 27.78,
        "convit_base.": 86.54, "vit_ti_16_224": 5.72, "vit_s_16_224": 22.05, "vit_b_16_224": 86.57,
        "vit_b_16_384": 86.86, "vit_b_32_224": 88.22, "vit_b_32_384": 88.30, "vit_l_16_224": 304.33,
        "vit_l_16_384": 304.72,
    }  # fmt: skip
    seen = set()
    for source in SOURCES:
        if source.megabytes is not None:
            beginning = next(name for name in millions if source.name.startswith(name))
            assert source.megabytes == pytest.approx(4 * millions[beginning], rel=0.01), source.name
            seen.add(beginning)
    assert seen == millions.keys()


def test_names_files_and_addresses_are_unique() -> None:
    for values in (NAMES, [source.file for source in SOURCES], [source.url for source in SOURCES]):
        assert len(set(values)) == len(values)


def test_every_model_of_a_paper_has_weights() -> None:
    without = {name for name in list_models() if not list_sources(name)}
    assert without == {"cvt_nano_32x32"}


def test_a_name_finds_its_source_and_a_model_its_first() -> None:
    for source in SOURCES:
        assert find_source(source.name) is source
        assert find_source(source.model) is list_sources(source.model)[0]
    assert find_source("cvt_13_224x224") is find_source("cvt_13_224x224.microsoft")
    assert list_sources() == SOURCES


@pytest.mark.parametrize("name", ["cvt_13_224x224.paddle", "convit_tinny.fb_in1k", "vit_b_16_224.augreg"])
def test_an_unknown_name_lists_the_nearest(name: str) -> None:
    assert find_source(name) is None
    near = {"cvt_13_224x224.paddle": "cvt_13_224x224.paddleclas", "convit_tinny.fb_in1k": "convit_tiny.fb_in1k"}
    with pytest.raises(UsageError, match=near.get(name, "vit_b_16_224.augreg_in21k_ft_in1k")):
        require_source(name)


def test_nothing_near_is_not_guessed() -> None:
    with pytest.raises(UsageError, match=r"called 'qqqq'; --pretrained list") as caught:
        require_source("qqqq")
    assert "\n" not in str(caught.value)


def test_the_table_has_a_line_for_each_and_its_columns_are_aligned() -> None:
    heading, *rows = sources_table().splitlines()
    assert [row.split()[0] for row in rows] == NAMES
    start = heading.index("licence")
    assert {row[start:].startswith(("apache-2.0", "not stated")) for row in rows} == {True}
    tiny = next(row for row in rows if row.startswith("convit_tiny.mindcv"))
    assert tiny.split()[1:5] == ["convit_tiny-e31023f2.ckpt", "-", "73.66", "91.72"]
