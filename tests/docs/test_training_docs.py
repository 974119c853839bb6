"""The pages for users: every setting, every option of the peers, commands, links, both languages."""

import re
import subprocess
import typing
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import pytest

from tests.docs.test_readme import (
    RUN_SH,
    blocks,
    check_command,
    commands,
    is_script,
    prose,
    slug,
    text,
    tool_options,
    unknown_tool_options,
)
from tests.models.test_registry import SIZES
from train import TrainSettings
from util.options import GROUPS, ScheduleOptions
from util.settings import parse, read_yaml
from util.train.schedule import highest_lr

ROOT = Path(__file__).parents[2]
TRAINING = ("docs/training.md", "docs/training_cn.md")
NAMES = ("training", "finetuning", "weights", "data", "reliability", "multi_node", "report")
PAIRS = tuple((f"docs/{name}.md", f"docs/{name}_cn.md") for name in NAMES)
PAGES = [page for pair in PAIRS for page in pair]
FOREIGN_FLAGS = {"--shm-size"}  # docker's

# Names and defaults of timm's train.py at commit aa4b585, of 8 August 2026.
TIMM = """
config data data-dir dataset train-split val-split train-num-samples val-num-samples dataset-download class-map
input-img-mode input-key target-key dataset-trust-remote-code model pretrained pretrained-path initial-checkpoint resume
no-resume-opt num-classes gp img-size in-chans input-size crop-pct mean std interpolation batch-size
validation-batch-size channels-last fuser grad-accum-steps grad-checkpointing fast-norm model-kwargs head-init-scale
head-init-bias torchcompile-mode torchscript torchcompile device amp amp-dtype model-dtype no-ddp-bb synchronize-step
local_rank device-modules opt opt-eps opt-betas momentum weight-decay clip-grad clip-mode layer-decay
layer-decay-min-scale layer-decay-no-opt-scale opt-kwargs sched sched-on-updates lr lr-base lr-base-size lr-base-scale
lr-noise lr-noise-pct lr-noise-std lr-cycle-mul lr-cycle-decay lr-cycle-limit lr-k-decay warmup-lr min-lr epochs
epoch-repeats start-epoch decay-milestones decay-epochs warmup-epochs warmup-prefix cooldown-epochs patience-epochs
decay-rate no-aug train-crop-mode scale ratio hflip vflip color-jitter color-jitter-prob grayscale-prob
gaussian-blur-prob aa aug-repeats aug-splits jsd-loss bce-loss bce-sum bce-target-thresh bce-pos-weight reprob remode
recount resplit mixup cutmix cutmix-minmax mixup-prob mixup-switch-prob mixup-mode mixup-off-epoch smoothing
train-interpolation drop drop-connect drop-path drop-block bn-momentum bn-eps sync-bn dist-bn split-bn model-ema
model-ema-force-cpu model-ema-decay model-ema-warmup seed worker-seeding log-interval val-interval recovery-interval
checkpoint-hist workers save-images pin-mem no-prefetcher output experiment eval-metric tta use-multi-epochs-loader
log-wandb wandb-project wandb-tags wandb-resume-id train-img-sizes train-batch-sizes train-size-probs
train-size-schedule train-size-schedule-spread train-size-random-mix train-batches-per-epoch variable-batch-loss-scale
naflex-loader naflex-train-seq-lens naflex-max-seq-len naflex-patch-sizes naflex-patch-size-probs naflex-loss-scale
naflex-patchify-channels-first kd-model-name kd-distill-type kd-loss-type distill-loss-weight task-loss-weight
kd-temperature kd-student-feature-dim kd-teacher-feature-dim kd-token-distill-type
"""
# By our names and in our notation; a null is written as what it does there (crop mode, probabilities, output).
TIMM_DEFAULTS = """
data_dir=none, train_split=train, val_split=validation, num_samples=none, batch_size=128, num_workers=4,
validation_batch_size=none, model=resnet50, num_classes=none, input_size=none, crop_pct=none, mean=none, std=none,
interpolation=none, aug=true, train_crop_mode=rrc, scale=0.08 1, ratio=0.75 1.33333, hflip=0.5, vflip=0,
color_jitter=0.4, color_jitter_prob=1, grayscale_prob=0, gaussian_blur_prob=0, aa=none, reprob=0, aug_repeats=0,
remode=pixel, recount=1, recount_min=1, rearea=0.02 0.333333, train_interpolation=random, mixup=0, cutmix=0,
cutmix_minmax=none, mixup_prob=1, mixup_switch_prob=0.5, mixup_mode=batch, mixup_off_epoch=0, smoothing=0.1,
bce_loss=false, bce_sum=false, bce_target_thresh=none, drop_rate=0, drop_path_rate=none, resume=none, pretrained=none,
opt=sgd, opt_eps=none, opt_betas=none, momentum=0.9, weight_decay=2e-05, filter_bias_and_bn=true, clip_grad=none,
clip_mode=norm, layer_decay=none, update_freq=1, grad_checkpointing=false, sync_bn=false,
amp=false, amp_dtype=float16, model_ema=false, model_ema_decay=0.9998, model_ema_warmup=false, sched=cosine,
t_in_epochs=true, lr=none, lr_base=0.1, lr_base_size=256, lr_base_scale=none, warmup_lr=1e-05, min_lr=0, epochs=300,
warmup_epochs=5, cooldown_epochs=0, decay_epochs=90, decay_milestones=90 180 270, decay_rate=0.1, poly_power=0.1,
start_epoch=none, device=cuda, seed=42, log_interval=50, checkpoint_hist=10, output=output/train, experiment=none,
log_wandb=false, wandb_project=none
"""
# Keys of ppcls/configs/ImageNet/CvT/*.yaml at commit d178931, from their last section on.
PADDLECLAS = """
Global: checkpoints pretrained_model output_dir device save_interval eval_during_train eval_interval epochs
    print_batch_step use_visualdl image_shape save_inference_dir to_static update_freq
AMP: use_amp use_fp16_test scale_loss use_dynamic_loss_scaling use_promote level
Arch: name class_num
CELoss: weight epsilon
Optimizer: name beta1 beta2 epsilon weight_decay no_weight_decay_name one_dim_param_no_weight_decay
lr: name learning_rate eta_min warmup_epoch warmup_start_lr by_epoch
dataset: name image_root cls_label_path
DecodeImage: to_rgb channel_first backend
RandCropImage: size interpolation backend
RandFlipImage: flip_code
TimmAutoAugment: config_str interpolation img_size
NormalizeImage: scale mean std order
RandomErasing: EPSILON sl sh r1 attempt use_log_aspect mode
MixupOperator: alpha prob
CutmixOperator: alpha prob
sampler: name batch_size drop_last shuffle
loader: num_workers use_shared_memory
ResizeImage: resize_short size interpolation backend
CropImage: size
Infer: infer_imgs batch_size
transforms: ToCHWImage
PostProcess: name topk class_id_map_file
TopkAcc: topk
"""

Table = list[list[str]]  # rows of cells, the header first


def tables(page: str) -> list[Table]:
    """Every table of a page, without its line of dashes."""
    found: list[Table] = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text(page), re.M):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        assert {len(row) for row in rows} == {len(rows[0])}, (
            f"{page}: a table with rows of different lengths: {rows[0]}"
        )
        found.append([rows[0], *rows[2:]])
    return found


def tables_with(page: str, *header: str) -> list[Table]:
    """The tables whose header begins so; a word may be given in both languages, `setting/参数`."""
    choices = [word.split("/") for word in header]
    found = [t for t in tables(page) if all(cell in c for cell, c in zip(t[0], choices, strict=False))]
    assert found, (page, header)
    return found


def named(cell: str) -> list[str]:
    """The names between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def shown_defaults(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Every setting of train.py with the default that --help prints."""
    with pytest.raises(SystemExit):
        parse(TrainSettings, ["--help"], description="", positional="data_dir")
    shown = re.findall(r"^  --(\w+)\b((?:(?!^  -).)*)", capsys.readouterr().out, re.M | re.S)
    defaults = {name: re.search(r"\(default: ([^)]*)\)", " ".join(help.split())) for name, help in shown}
    return {name: found[1] for name, found in defaults.items() if found}


def setting_rows(page: str) -> list[tuple[str, str]]:
    """The (name, default) of every row of the settings' tables."""
    settings = tables_with(page, "setting/参数", "default/默认值")
    return [(row[0].strip("`"), row[1]) for table in settings for row in table[1:]]


def setting_faults(rows: Sequence[tuple[str, str]], defaults: dict[str, str]) -> list[str]:
    """What is missing, unknown, twice there, or has another default."""
    written = dict(rows)
    twice = [name for name, _ in rows if [n for n, _ in rows].count(name) > 1]
    differing = [n for n in written.keys() & defaults.keys() if written[n] != defaults[n]]
    return sorted({*twice, *differing, *(written.keys() ^ defaults.keys())})


@pytest.mark.parametrize("page", TRAINING)
def test_every_setting_of_training_stands_there_with_its_default(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    defaults = shown_defaults(capsys)
    groups = [g for name, g in typing.get_type_hints(TrainSettings).items() if name != "on_command_line"]
    assert defaults.keys() == {f.name for group in groups for f in fields(group)}
    rows = setting_rows(page)
    assert setting_faults(rows, defaults) == []
    assert all(row[3] for table in tables_with(page, "setting/参数", "default/默认值") for row in table), "no source"
    # controls: a changed default, an added setting, a removed one, a row that stands twice
    assert setting_faults(rows, defaults | {"min_lr": "0"}) == ["min_lr"]
    assert setting_faults(rows, defaults | {"new": "none"}) == ["new"]
    assert setting_faults(rows[1:], defaults) == [rows[0][0]]
    assert setting_faults([*rows, rows[5]], defaults) == [rows[5][0]]


@pytest.mark.parametrize("page", TRAINING)
def test_every_default_is_timms_or_said_to_differ(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    ours = shown_defaults(capsys)
    theirs = dict(pair.split("=") for pair in " ".join(TIMM_DEFAULTS.split()).split(", "))
    assert theirs.keys() <= ours.keys()
    (table,) = tables_with(page, "setting/参数", "timm")
    said = {row[0].strip("`"): (row[1], row[2]) for row in table[1:]}
    assert said == {n: (value, ours[n]) for n, value in theirs.items() if value != ours[n]}
    assert all(row[3] for row in table), "no reason"


@pytest.mark.parametrize("page", TRAINING)
def test_every_option_of_timm_has_one_place(page: str) -> None:
    (table,) = [t for t in tables_with(page, "timm", "here/这里") if len(t[0]) == 2]
    *rows, later = table[1:]
    options = [name for row in rows for name in named(row[0])]
    assert sorted(options) == sorted(TIMM.split())
    assert str(len(options)) in text(page)
    assert not set(named(later[0])) & set(options)
    assert all(row[1] for row in table)
    own = {f.name for group in GROUPS for f in fields(group)}
    same = [n for row in rows if row[1].startswith(("the same names", "同名")) for n in named(row[0])]
    assert {n.replace("-", "_").removeprefix("no_") for n in same} - own == {"config", "data"}


@pytest.mark.parametrize("page", TRAINING)
def test_every_key_of_paddleclas_has_one_place(page: str) -> None:
    keys, section = [], ""
    for word in PADDLECLAS.split():
        if word.endswith(":"):
            section = word
        else:
            keys.append(f"{section[:-1]}.{word}")
    (table,) = tables_with(page, "PaddleClas", "here/这里")
    assert sorted(name for row in table[1:] for name in named(row[0])) == sorted(keys)


@pytest.mark.parametrize("page", TRAINING)
def test_the_recipes_are_those_of_the_files(page: str) -> None:
    written = {}
    for name, batch, opt, lr, decay, epochs, source in (
        row
        for table in tables_with(
            page, "recipe/配置", "`batch_size` × GPUs × `update_freq`/`batch_size` × GPU 数 × `update_freq`"
        )
        for row in table[1:]
    ):
        path = ROOT / "docs" / re.findall(r"\((.*)\)", name)[0]
        size, processes, update_freq = map(int, batch.split(" × "))
        written[path.resolve()] = (size, update_freq, opt, float(lr), float(decay), int(epochs))
        head = path.read_text(encoding="utf-8").replace("\n# ", " ")
        assert source
        assert f"{size * processes * update_freq} images an update" in head
        assert re.search(rf"run\.sh -g {processes} |--gpus=[\d,]*\b{processes - 1} ", head), path
    files = {}
    for path in (ROOT / "configs" / "train").glob("*/*.yaml"):
        recipe = read_yaml(path)
        names = ("batch_size", "update_freq", "opt", "lr", "weight_decay", "epochs")
        files[path.resolve()] = tuple(recipe[name] for name in names)
    assert written == files


@pytest.mark.parametrize("page", PAIRS[1])
def test_every_recipe_of_fine_tuning_has_a_row(page: str) -> None:
    (table,) = tables_with(page, "recipe/配置", "for/用途")
    linked = re.findall(r"\((.*?\.yaml)\)", "".join(row[0] for row in table[1:]))
    files = (ROOT / "configs" / "finetune").glob("*.yaml")
    assert sorted(linked) == sorted(f"../{path.relative_to(ROOT)}" for path in files)


@pytest.mark.parametrize("page", TRAINING)
def test_what_may_differ_on_resuming_is_what_is_not_compared(page: str) -> None:
    (bullet,) = re.findall(
        r"^- \*\*(?:May differ on resuming|续训时可以不同)[^*]*\*\*(.*?)(?=^$|^- )", text(page), re.M | re.S
    )
    groups = [g for name, g in typing.get_type_hints(TrainSettings).items() if name != "on_command_line"]
    assert sorted(named(bullet)) == sorted(
        f.name for group in groups for f in fields(group) if f.metadata["scope"] != "result"
    )


@pytest.mark.parametrize("page", TRAINING)
def test_the_learning_rates_are_what_lr_base_gives(page: str) -> None:
    (table,) = tables_with(page, "images an update/每次更新的图片数")
    options = ScheduleOptions(lr_base=2.5e-4)
    for row, scaled in zip(table[1:], (options, replace(options, lr_base_scale="sqrt")), strict=True):
        for images, lr in zip(table[0][1:], row[1:], strict=True):
            assert float(lr) == pytest.approx(highest_lr(scaled, int(images)), rel=2e-3)


@pytest.mark.parametrize("page", TRAINING)
def test_memory_is_given_for_every_cvt_and_for_each_family(page: str) -> None:
    (table,) = tables_with(page, "model/模型", "1")
    measured = {named(row[0])[0] for row in table[1:]}
    assert {n for n in SIZES if n.startswith("cvt_")} - {"cvt_nano_32x32"} <= measured <= SIZES.keys()
    assert {name.partition("_")[0] for name in measured} == {"cvt", "convit", "vit"}
    for row in table[1:]:
        assert re.search(r"\d{3,} / \d{3,}", " ".join(row)), f"{row[0]}: nothing was measured"
    fixed = [float(n) for n in re.findall(r"([\d.]+)\s+GB", text(page))]
    models = ("cvt_13_224x224", "cvt_21_224x224", "cvt_w24_384x384", "vit_b_16_224")
    assert fixed == [pytest.approx(SIZES[name][0] * 16 / 1e9, abs=0.05) for name in models]


@pytest.mark.parametrize("page", ["README.md", "README_cn.md", *(page for pair in PAIRS for page in pair)])
def test_nothing_waits_to_be_filled_in(page: str) -> None:
    assert re.findall(r"TO BE FILLED|TODO|FT_\w+", text(page)) == []


def counts(page: str) -> dict[str, int]:
    """How much of each kind of thing a page has."""
    patterns = (r"^# ", r"^## ", r"^### ", r"^```", r"^\|", r"^- ", r"^\d+\. ", r"\]\(", r"<!--")
    return {pattern: len(re.findall(pattern, text(page), re.M)) for pattern in patterns}


@pytest.mark.parametrize("pair", PAIRS)
def test_both_languages_say_the_same(pair: tuple[str, str]) -> None:
    english, chinese = pair
    assert counts(english) == counts(chinese)
    assert commands(english) == commands(chinese)
    for one, other in zip(tables(english), tables(chinese), strict=True):
        for row, translated in zip(one, other, strict=True):
            assert named(row[0]) == named(translated[0])
            numbers = [re.fullmatch(r"[\d.e× –/-]+", cell) is not None for cell in row]
            assert [c for c, is_number in zip(row, numbers, strict=True) if is_number] == [
                c for c, is_number in zip(translated, numbers, strict=True) if is_number
            ]
    assert re.findall(r"arxiv\.org/abs/([\d.]+)", text(english)) == re.findall(
        r"arxiv\.org/abs/([\d.]+)", text(chinese)
    )


def dead_links(page: str, content: str) -> list[str]:
    """Links within the repository that lead to no file, or to no heading of it."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", content):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if "://" in path:
            continue
        if not target.exists():
            dead.append(link)
        elif anchor:
            headings = re.findall(r"^#+ (.*)$", prose(str(target.resolve().relative_to(ROOT))), re.M)
            dead += [link] if anchor not in map(slug, headings) else []
    return dead


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page: str) -> None:
    assert dead_links(page, prose(page)) == []
    broken = "[a](nowhere.md) [b](training.md#nowhere) [c](https://arxiv.org) [d](../README.md#training)"
    assert dead_links(page, broken) == ["nowhere.md", "training.md#nowhere"]


def tool_flags(page: str) -> set[str]:
    """The options of the tools that a page starts with `python -m util...`."""
    flags: set[str] = set()
    for call in set(re.findall(r"python -m (util[\w.]*\w(?: average)?)", text(page))):
        flags |= tool_options(call)
    return flags


def unknown_flags(content: str, tools: set[str]) -> set[str]:
    """The flags that neither a script, nor run.sh, nor one of the tools has."""
    known = {"--config", "--cfg", "--help", *RUN_SH, *tools, *FOREIGN_FLAGS}
    for group in GROUPS:
        hints = typing.get_type_hints(group)
        for f in fields(group):
            flags = [f"--{f.name}", *f.metadata["flags"]]
            known |= {*flags, *(flag.replace("--", "--no_", 1) for flag in flags if hints[f.name] is bool)}
    return set(re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", content)) - known


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_exists(page: str) -> None:
    assert unknown_flags(text(page), tool_flags(page)) == set()
    assert unknown_flags("`--lr 1` --no_aug `--shm-size 8g` --lrr `--no_lr` -vb", set()) == {"--lrr", "--no_lr"}


@pytest.mark.parametrize("page", PAGES)
def test_commands_can_be_pasted(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # recipes are named relative to it
    found = blocks(page, "shell")
    assert found or "reliability" in page  # whose commands are in its tables
    others = re.sub(r"^```shell\n.*?^```$", "", text(page), flags=re.M | re.S)
    assert not re.search(r"^(python|bash|pip|make) ", others, re.M), "a command outside a shell block"
    for block in found:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    for words in commands(page):
        if is_script(words):
            check_command(words)
        elif words[0] == "python":
            assert unknown_tool_options(words) == [], words
