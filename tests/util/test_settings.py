"""Flags, YAML and their precedence: what parses, what is refused, and with which words."""

import contextlib
import io
import types
import typing
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from util import options
from util.errors import MissingInputError, UsageError
from util.options.base import Scope
from util.settings import Settings, parse, read_yaml, to_plain


@dataclass(frozen=True, kw_only=True)
class Example(Settings):
    data: options.DataOptions
    train_data: options.TrainDataOptions
    batch: options.BatchOptions
    loader: options.LoaderOptions
    preprocess: options.PreprocessOptions
    augment: options.AugmentOptions
    weights: options.WeightsOptions
    optim: options.OptimOptions
    ema: options.EmaOptions
    loss: options.LossOptions
    schedule: options.ScheduleOptions
    run: options.RunOptions


@dataclass(frozen=True, kw_only=True)
class Predicting(Settings):
    predict: options.PredictOptions


def parse_example(*argv: str) -> Example:
    return parse(Example, argv, description="", positional="data_dir")


def parse_group(group: type[Any], *argv: str) -> Any:
    """Returns one group's options from a command line."""
    settings: Any = make_dataclass("One", [("group", group, field())], bases=(Settings,), frozen=True, kw_only=True)
    return parse(settings, argv, description="").group


def write_yaml(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


# --- every option

OPTIONS = [(group, f) for group in options.GROUPS for f in fields(group)]
IDS = [f"{group.__name__}.{f.name}" for group, f in OPTIONS]
NULLABLE = [(group, f.name) for group, f in OPTIONS if types.NoneType in typing.get_args(f.type)]

# Texts and values of options that do not take just any value of their type.
VALID: dict[str, tuple[list[str], Any]] = {
    "device": (["gpu:1"], "gpu:1"),
    "input_size": (["3", "64", "96"], (3, 64, 96)),
    "mean": (["0.5", "0.25", "1"], (0.5, 0.25, 1.0)),
    "std": (["0.5"], (0.5,)),
    "decay_milestones": (["3", "60"], (3, 60)),
}

# Options that only go with others.
WITH: dict[str, list[str]] = {
    "use_nesterov": ["--opt", "momentum"],
    "bce_sum": ["--bce_loss"],
    "bce_target_thresh": ["--bce_loss"],
    "recount_min": ["--recount", "4"],
    "momentum": ["--opt", "momentum"],
    "mixup_mode": ["--mixup", "0.8"],
    "continue_job": ["--output", "results.jsonl"],
}


def _example(name: str, hint: Any) -> tuple[list[str], Any]:
    """Returns words of a command line for an option of this type, and the value that they mean."""
    if name in VALID:
        return VALID[name]
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return _example(name, next(a for a in arguments if a is not type(None)))
    if typing.get_origin(hint) is Literal:
        return [arguments[-1]], arguments[-1]
    if typing.get_origin(hint) is tuple:
        words, value = _example(name, arguments[0])
        count = 2 if arguments[-1] is Ellipsis else len(arguments)
        return words * count, (value,) * count
    known: dict[Any, tuple[list[str], Any]] = {
        int: (["3"], 3),
        float: (["0.5"], 0.5),
        str: (["some text"], "some text"),
    }
    return known[hint]


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=IDS)
def test_option_parses_from_text(group: type[Any], option: Any) -> None:
    hint = typing.get_type_hints(group)[option.name]
    others = WITH.get(option.name, [])
    spellings = [f"--{option.name}", f"--{option.name.replace('_', '-')}", *option.metadata["flags"]]
    for flag in spellings:
        if hint is bool:
            off = flag.replace("--", "--no_", 1), flag.replace("--", "--no-", 1)
            assert getattr(parse_group(group, *others, flag), option.name) is True
            assert [getattr(parse_group(group, *others, f), option.name) for f in off] == [False, False]
        else:
            words, expected = _example(option.name, hint)
            found = getattr(parse_group(group, *others, flag, *words), option.name)
            assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(("group", "name"), NULLABLE)
def test_none_is_null(group: type[Any], name: str) -> None:
    assert getattr(parse_group(group, f"--{name}", "none"), name) is None


def test_none_is_an_empty_list(tmp_path: Path) -> None:
    config = write_yaml(tmp_path, "freeze: [stage0, stage1]\n")
    assert parse_example("--config", config).optim.freeze == ("stage0", "stage1")
    assert parse_example("--config", config, "--freeze", "none").optim.freeze == ()
    assert parse_example("--config", write_yaml(tmp_path, "freeze:\n")).optim.freeze == ()


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=IDS)
def test_option_has_help_and_a_default_that_it_would_accept(group: type[Any], option: Any) -> None:
    assert len(option.metadata["help"]) > 5
    assert option.metadata["scope"] in typing.get_args(Scope)
    assert getattr(parse_group(group), option.name) == option.default


@pytest.mark.parametrize("group", options.GROUPS)
def test_help_lists_every_option_with_its_default(group: type[Any]) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as caught:
        parse_group(group, "--help")
    assert caught.value.code in (0, None)
    text = " ".join(said.getvalue().split())
    for option in fields(group):
        assert f"--{option.name}" in text
    assert text.count("(default: ") == len(fields(group))


def test_groups_are_all_listed() -> None:
    declared = {v for k, v in vars(options).items() if k.endswith("Options")}
    assert declared == set(options.GROUPS)


# --- the command line


def test_dashes_are_underscores_but_not_in_values() -> None:
    settings = parse_example("--batch-size=3", "--no-aug", "--train-split", "a-b_c", "--experiment=x-y=z")
    assert (settings.batch.batch_size, settings.augment.aug) == (3, False)
    assert (settings.train_data.train_split, settings.run.experiment) == ("a-b_c", "x-y=z")


def test_short_flags() -> None:
    settings = parse_example("-b", "5", "-j", "2", "-vb", "7")
    assert (settings.batch.batch_size, settings.loader.num_workers, settings.run.validation_batch_size) == (5, 2, 7)


def test_positional_is_the_data_folder_in_any_place() -> None:
    for argv in (["D"], ["--lr", "0.1", "D"], ["--lr", "0.1", "D", "--epochs", "9"], ["D", "--data_dir", "D"]):
        assert parse_example(*argv).data.data_dir == "D"
    assert parse_example().data.data_dir == "DATASET/imagenet"
    with pytest.raises(UsageError, match="data_dir is given twice: D and E"):
        parse_example("D", "--data_dir", "E")
    with pytest.raises(UsageError, match="unexpected argument 'E'"):
        parse_example("D", "E")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--batch 3", r"unknown option --batch; did you mean (--)?batch_size\?"),
        ("--epoch 3", r"unknown option --epoch; did you mean (--)?epochs\?"),
        ("--no_no_aug", r"unknown option --no_no_aug"),
        ("--no_lr", r"unknown option --no_lr"),
        ("-x", r"unknown option -x"),
        ("--lr", r"--lr: expected"),
        ("--lr fast", r"--lr must be a number; got 'fast'"),
        ("--epochs 3.5", r"--epochs must be an integer; got '3.5'"),
        ("--epochs none", r"--epochs must be an integer; got 'none'"),
        ("--opt adamv", r"--opt is one of sgd, .*adamw, .*; got 'adamv'; did you mean adamw?"),
        ("--mean 1 2", r"mean must be 3 numbers"),
        ("--scale 0.5", r"--scale"),
        ("--no_prefetcher", r"--no_prefetcher does not exist here: there is one pipeline; leave it out"),
        ("--no-prefetcher", r"--no_prefetcher does not exist here"),
        ("--use_multi_epochs_loader", r"--use_multi_epochs_loader does not exist here"),
        ("--worker_seeding all", r"--worker_seeding does not exist here"),
        ("--debug", r"--debug does not exist here"),
        ("--resplit", r"--resplit does not exist here"),
        ("DATA TRAIN.LR 0.1", r"write --lr 0\.1$"),
        ("--epochs 3 TRAIN.LR 0.1", r"write --lr 0\.1$"),
        ("TRAIN.BATCH_SIZE_PER_GPU 64", r"write --batch_size 64$"),
    ],
)
def test_refused_command_line(argv: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_example(*argv.split())


def test_settings_remember_what_was_on_the_command_line(tmp_path: Path) -> None:
    settings = parse_example("--config", write_yaml(tmp_path, "lr: 1\nmodel: x\n"), "--epochs", "4", "D")
    assert settings.on_command_line == {"epochs", "data_dir"}


# --- YAML


def test_precedence_is_default_yaml_command_line(tmp_path: Path) -> None:
    config = write_yaml(tmp_path, "lr: 0.2\nbatch_size: 16\naug: false\ndata_dir: Y\n")
    settings = parse_example("--config", config, "--lr", "0.3", "--aug")
    assert settings.schedule.lr == 0.3
    assert settings.batch.batch_size == 16
    assert settings.schedule.epochs == options.ScheduleOptions().epochs
    assert settings.augment.aug is True
    assert settings.data.data_dir == "Y"
    for flag in ("-c", "--cfg"):
        assert parse_example(flag, config, "D").data.data_dir == "D"


YAML_VALUES: dict[str, tuple[str, str, Any]] = {
    "1e-3 is a number": ("lr: 1e-3", "schedule.lr", 0.001),
    "integer as a number": ("lr: 1", "schedule.lr", 1.0),
    "quoted number": ("epochs: '7'", "schedule.epochs", 7),
    "null": ("aa: null", "augment.aa", None),
    "nothing": ("aa:", "augment.aa", None),
    "none": ("crop_pct: none", "preprocess.crop_pct", None),
    "switch": ("sync_bn: true", "optim.sync_bn", True),
    "list": ("opt_betas: [0.5, 9e-1]", "optim.opt_betas", (0.5, 0.9)),
    "list of any length": ("input_size: [3, 64, 96]", "preprocess.input_size", (3, 64, 96)),
    "single value for a list": ("input_size: 96", "preprocess.input_size", (96,)),
    "choice": ("crop_mode: squash", "preprocess.crop_mode", "squash"),
    "text": ("aa: rand-m9-mstd0.5-inc1", "augment.aa", "rand-m9-mstd0.5-inc1"),
    "comments": ("# lr: 3\nlr: 2 # two\n", "schedule.lr", 2.0),
}


@pytest.mark.parametrize("name", YAML_VALUES)
def test_yaml_value(name: str, tmp_path: Path) -> None:
    text, place, expected = YAML_VALUES[name]
    group, option = place.split(".")
    found = getattr(getattr(parse_example("--config", write_yaml(tmp_path, text)), group), option)
    assert (found, type(found)) == (expected, type(expected))


def test_yaml_of_another_script_is_accepted(tmp_path: Path) -> None:
    known = sorted(options.yaml_keys())
    text = "".join(f"{key}:\n" for key in known)
    assert sorted(read_yaml(Path(write_yaml(tmp_path, text)))) == known
    assert (
        parse(Predicting, ["-c", write_yaml(tmp_path, "lr: 1\n")], description="").predict == options.PredictOptions()
    )


def test_yaml_output_of_training_is_not_the_results_file(tmp_path: Path) -> None:
    settings = parse(Predicting, ["-c", write_yaml(tmp_path, "output: output/train\n")], description="")
    assert settings.predict.output is None


REFUSED_YAML: dict[str, tuple[str, str]] = {
    "unknown key": ("bacth_size: 3", r"unknown setting bacth_size; did you mean batch_size\?"),
    "duplicate key": ("lr: 1\nepochs: 2\nlr: 3", r"lr stands twice, in lines 1 and 3"),
    "alias": ("lr: &a 1\nmin_lr: *a", r"aliases are not supported"),
    "merge": ("<<: {lr: 1}", r"config\.yaml: "),
    "python object": ("lr: !!python/object/apply:os.getcwd []", r"config\.yaml: "),
    "text for a number": ("lr: fast", r"lr must be a number; got 'fast'"),
    "boolean for a number": ("lr: true", r"lr must be a number; got True"),
    "boolean for an integer": ("epochs: yes", r"epochs must be an integer; got True"),
    "fraction for an integer": ("epochs: 3.0", r"epochs must be an integer; got 3\.0"),
    "infinity for an integer": ("epochs: .inf", r"epochs must be an integer; got inf"),
    "number for text": ("data_dir: 3", r"data_dir must be text \(quote it\); got 3"),
    "date for text": ("data_dir: 2024-01-01", r"data_dir must be text"),
    "number for a switch": ("aug: 1", r"aug must be true or false; got 1"),
    "text for a switch": ("aug: 'no'", r"aug must be true or false; got 'no'"),
    "list for a number": ("lr: [1, 2]", r"lr must be a number; got \[1, 2\]"),
    "mapping for text": ("data_dir: {a: 1}", r"data_dir must be text"),
    "too few values": ("scale: [0.5]", r"scale takes 2 values; got 1: 0\.5"),
    "unknown choice": ("clip_mode: nrom", r"clip_mode is one of norm, value, agc; got 'nrom'; did you mean norm\?"),
    "null for a number": ("min_lr: null", r"min_lr must be a number; got None"),
    "key that is no text": ("1: 2", r"line 1: a key must be text; got 1"),
    "list": ("- lr", r"expected lines `key: value`, got list"),
    "text alone": ("lr", r"expected lines `key: value`, got str"),
    "syntax": ("lr: [1", r"config\.yaml: "),
    "two documents": ("lr: 1\n---\nlr: 2", r"config\.yaml: "),
    "deep nesting": ("lr: " + "[" * 2000, r"config\.yaml: "),
    "removed option": ("debug: true", r"debug does not exist here: it had no effect; remove the line"),
    "only for the command line": ("resume: x", r"resume"),
}


@pytest.mark.parametrize("name", REFUSED_YAML)
def test_refused_yaml_names_file_and_fault(name: str, tmp_path: Path) -> None:
    text, message = REFUSED_YAML[name]
    config = write_yaml(tmp_path, text)
    with pytest.raises(UsageError, match=message) as caught:
        parse_example("--config", config)
    assert str(caught.value).startswith(f"{config}: ")
    assert "\n" not in str(caught.value)


def test_yaml_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"gone\.yaml: no such configuration file"):
        parse_example("--config", str(tmp_path / "gone.yaml"))
    with pytest.raises(UsageError, match="a configuration is a text file"):
        parse_example("--config", str(tmp_path))
    (tmp_path / "image.yaml").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UsageError, match=r"image\.yaml: "):
        parse_example("--config", str(tmp_path / "image.yaml"))
    (tmp_path / "large.yaml").write_text("# " + "x" * 1_000_001)
    with pytest.raises(UsageError, match="at most 1000000 bytes"):
        parse_example("--config", str(tmp_path / "large.yaml"))
    assert read_yaml(Path(write_yaml(tmp_path, "# nothing\n"))) == {}


def test_plain_settings_load_back_aswrite_yaml(tmp_path: Path) -> None:
    import yaml

    settings = parse_example(
        "D", "--lr", "1e-3", "--input_size", "64", "--aa", "rand-m9", "--resume", "x", "--output", "o"
    )
    plain = to_plain(settings)
    assert not {"resume", "output", "num_workers", "on_command_line"} & set(plain)
    assert (plain["lr"], plain["input_size"], plain["data_dir"], plain["scale"]) == (0.001, [64], "D", [0.08, 1.0])
    again = parse_example("--config", write_yaml(tmp_path, yaml.safe_dump(plain)))
    assert to_plain(again) == plain
    assert "data_dir" not in to_plain(settings, frozenset({"result"}))
