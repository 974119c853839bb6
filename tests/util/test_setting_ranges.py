"""Settings out of range, or without which something could only fail later: refused where they are parsed."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.util.test_settings import parse_example, parse_group, write_yaml
from util import options
from util.errors import UsageError

# --- ranges

OUT_OF_RANGE: dict[type[Any], list[str]] = {
    options.BatchOptions: ["--batch_size 0", "--batch_size -1"],
    options.LoaderOptions: ["--num_workers -1", "--num_workers 1025"],
    options.PreprocessOptions: [
        "--input_size 0", "--input_size 3 64 64 64", "--input_size 2 64 64", "--input_size -64", "--crop_pct 0",
        "--crop_pct 1.1", "--crop_pct nan", "--crop_pct 0.9 --crop_mode squash", "--std 0 1 1", "--std 1 -1 1",
        "--std nan 1 1",
    ],
    options.AugmentOptions: [
        "--hflip 1.1", "--hflip -0.1", "--vflip 2", "--reprob nan", "--scale 0 1", "--scale 0.5 0.4", "--scale 0.5 1.1",
        "--ratio 0 1", "--ratio 2 1", "--color_jitter -0.1", "--color_jitter_prob 1.1", "--grayscale_prob -1",
        "--gaussian_blur_prob 2", "--aug_repeats -1", "--recount 0", "--recount 1001", "--recount_min 0",
        "--recount_min 2", "--rearea 0 0.5", "--rearea 0.5 0.4", "--rearea 0.5 1.1",
    ],
    options.MixOptions: [
        "--mixup -1", "--cutmix -1", "--mixup_off_epoch -1", "--mixup_prob 1.5", "--mixup_switch_prob -1",
        "--mixup_mode half", "--cutmix_minmax 0.5 0.4", "--cutmix_minmax -0.1 0.4", "--cutmix_minmax 0.1 1.1",
    ],
    options.LossOptions: [
        "--smoothing 1", "--smoothing -0.1", "--bce_sum", "--bce_target_thresh 0.1",
        "--bce_target_thresh 1 --bce_loss", "--bce_target_thresh -0.1 --bce_loss",
    ],
    options.TrainDataOptions: ["--num_samples 0"],
    options.ModelOptions: ["--num_classes 0", "--num_classes -5"],
    options.RegularisationOptions: [
        "--drop_rate 1", "--drop_rate -0.1", "--attn_drop_rate 1", "--drop_path_rate 1", "--drop_path_rate nan",
    ],
    options.OptimOptions: [
        "--weight_decay -1", "--weight_decay nan", "--momentum -0.1", "--opt_eps 0", "--opt_betas 1 0.9",
        "--opt_betas 0.9 -0.1", "--clip_grad 0", "--clip_grad -1", "--update_freq 0", "--use_nesterov",
        "--layer_decay 0", "--layer_decay 1.1", "--opt_eps 1e-6 --opt lion", "--opt_eps 1e-6 --opt sgd",
        "--opt_betas 0.9 0.9 --opt momentum", "--momentum 0.9", "--momentum 0.9 --opt sgd",
        "--momentum 1 --opt momentum", "--opt_eps 1e-40",
    ],
    options.EmaOptions: ["--model_ema_decay 1", "--model_ema_decay -0.1"],
    options.ScheduleOptions: [
        "--epochs 0", "--epochs 99999999999999999999", "--lr 1e300", "--lr -1", "--lr nan", "--lr inf",
        "--warmup_lr -1", "--min_lr inf", "--warmup_epochs -1", "--cooldown_epochs -1", "--start_epoch -1",
        "--start_epoch 300", "--lr 1 --lr_base 1", "--lr_base -1", "--lr_base_size 0", "--decay_epochs 0",
        "--decay_milestones 0 5", "--decay_milestones 5 5", "--decay_milestones 9 5", "--decay_rate 0",
        "--decay_rate 1.1", "--poly_power 0",
    ],
    options.DeviceOptions: ["--device cuda", "--device gpu:x", "--device cpu:0", "--device gpu:-1", "--device GPU"],
    options.ThreadOptions: ["--cpu_threads 0"],
    options.RunOptions: [
        "--seed -1", "--validation_batch_size 0", "--checkpoint_hist 0", "--checkpoint_interval -1",
        "--log_interval 0", "--dry_run --restart", "--experiment a/b", "--experiment ..", "--experiment .",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("group", "argv"), [(group, argv) for group, table in OUT_OF_RANGE.items() for argv in table])
def test_value_out_of_range_names_the_option(group: type[Any], argv: str) -> None:
    name = argv.split()[0].removeprefix("--")
    with pytest.raises(UsageError, match=rf"\b{re.escape(name)}\b"):
        parse_group(group, *argv.split())


@pytest.mark.parametrize(
    ("group", "argv"),
    [
        (options.PreprocessOptions, "--mean nan 0.5 0.5"),
        (options.PreprocessOptions, "--mean 0.5 inf 0.5"),
        (options.PreprocessOptions, "--std inf 1 1"),
        (options.AugmentOptions, "--ratio 1 inf"),
        (options.AugmentOptions, "--color_jitter inf"),
        (options.MixOptions, "--mixup inf"),
        (options.MixOptions, "--cutmix inf"),
        (options.OptimOptions, "--weight_decay inf"),
        (options.OptimOptions, "--momentum inf"),
        (options.OptimOptions, "--opt_eps inf"),
        (options.DeviceOptions, "--device gpu:"),
        (options.DeviceOptions, "--device cpu:"),
        (options.DataOptions, "--delimiter="),
    ],
)
def test_value_that_could_only_fail_later_names_the_option(group: type[Any], argv: str) -> None:
    name = argv.split()[0].removeprefix("--").rstrip("=")
    with pytest.raises(UsageError, match=rf"\b{re.escape(name)}\b"):
        parse_group(group, *argv.split())


def test_empty_input_size_of_a_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="input_size"):
        parse_example("--config", write_yaml(tmp_path, "input_size: []\n"))


def test_bounds_themselves_are_accepted() -> None:
    argv = (
        "--hflip 1 --reprob 0 --smoothing 0 --scale 1 1 --ratio 1 1 --crop_pct 1 --crop_mode squash --lr 0 "
        "--warmup_epochs 0 --epochs 1 --start_epoch 0 --weight_decay 0 --model_ema_decay 0 --layer_decay 1 "
        "--decay_rate 1 --opt momentum --use_nesterov --num_workers 0 --seed 0 --checkpoint_interval 0"
    )
    settings = parse_example(*argv.split())
    assert (settings.augment.hflip, settings.augment.scale) == (1.0, (1.0, 1.0))
    assert settings.schedule.start_epoch == 0
    assert settings.optim.use_nesterov is True
