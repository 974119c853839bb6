"""Packs the images of a data set into tar shards, or writes the index of shards that are there.

    python -m util.data.shard DATA --output SHARDS [--split train --split val] [--shard_mb 500] [--seed 42]
    python -m util.data.shard --index SHARDS [--split train]

DATA holds class folders, or is what the list files list. Written are `<split>-000000.tar` and so on in the layout of
the WebDataset library, the images' bytes as they are, in an order that the seed shuffled once; `<split>-classes.json`
with the names of the class folders; and the index `<split>.shards.safetensors`. Nothing is written over; what is
stopped leaves nothing. `python train.py SHARDS` and `eval.py` read them as they read folders. Imports no paddle.
"""

import argparse
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from util.data.shard_index import scan_shards, write_index
from util.data.shard_pack import check_output, plan_packing, remove_leftovers, write_shards
from util.data.shards import find_shards, find_splits, index_path, read_classes
from util.data.splits import load_split
from util.errors import MissingInputError, UsageError, run_script
from util.log import start_logging
from util.settings import tool_parser

MEGABYTE = 1_000_000


def pack(
    folder: Path,
    output: Path,
    splits: Sequence[str],
    *,
    lists: dict[str, str | None],
    delimiter: str | None,
    shard_bytes: int,
    seed: int,
    log: logging.Logger,
) -> None:
    """Packs splits of a data set; the classes of all are those of the first.

    lists: list files by split. All splits are read and their places checked before anything is written.
    """
    class_names, packings = None, {}
    for split in splits:
        images = load_split(
            str(folder),
            split,
            list_path=lists.get(split),
            delimiter=delimiter,
            class_names=class_names,
            use_index=False,
        )
        if images.pixels is not None or images.shards is not None:
            raise UsageError(f"{folder}: expected class folders or a list file; {split} is in archives already")
        class_names = class_names or images.class_names
        packings[split] = plan_packing(images, split, shard_bytes=shard_bytes, seed=seed)
    remove_leftovers(output, log=log)  # before the room is measured
    needed = sum(packing.bytes for packing in packings.values())
    for split in splits:
        check_output(output, split, needed)
    for split, packing in packings.items():
        shards = write_shards(packing, output, split)
        log.info(f"{output}: {split}: {packing.num_images:,} images in {len(shards)} shards")
    log.info(f"train on them: {shlex.join(['python', 'train.py', str(output)])} --config CONFIG")


def index(folder: Path, splits: Sequence[str], *, log: logging.Logger) -> None:
    """Writes the index of each split's shards; one that is there is replaced. Without any, of all splits there."""
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder")
    found = {split: find_shards(folder, split) for split in splits or find_splits(folder)}
    missing = [split for split, shards in found.items() if not shards]
    if missing or not found:
        split = missing[0] if missing else "<split>"
        raise MissingInputError(f"{folder}: no shards; expected {split}-000000.tar and so on")
    for split, shards in found.items():
        read = scan_shards(shards, read_classes(folder, split))
        write_index(read, index_path(folder, split))
        log.info(f"{index_path(folder, split)}: {len(read.labels):,} images in {len(shards)} shards")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tool_parser("util.data.shard", __doc__)
    parser.add_argument(
        "folder", metavar="DATA", type=Path, help="the data set; with --index, the folder of the shards"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder for the shards")
    parser.add_argument("--index", action="store_true", help="only write the index of shards that are there")
    parser.add_argument(
        "--split", action="append", help="a split; again for each (default: train and val, or all there)"
    )
    parser.add_argument("--cls_label_path_train", metavar="FILE", help="list file of the split train, as for train.py")
    parser.add_argument("--cls_label_path_val", metavar="FILE", help="list file of the split val, as for train.py")
    parser.add_argument("--delimiter", help="what separates path and label in list files (default: white space)")
    parser.add_argument("--shard_mb", type=float, default=500.0, help="size of a shard at most, in MB (default: 500)")
    parser.add_argument("--seed", type=int, default=42, help="shuffles the samples (default: 42)")
    arguments = parser.parse_args(argv)
    if arguments.index == (arguments.output is not None):
        raise UsageError("give either --output DIR, to pack a data set, or --index, for shards that are there")
    if not 0 < arguments.shard_mb < 1e9:
        raise UsageError(f"--shard_mb must be above 0 and below 1e9; got {arguments.shard_mb}")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _arguments(argv)
    log = start_logging(is_main=True)
    if arguments.index:
        index(arguments.folder, arguments.split or [], log=log)
        return
    pack(
        arguments.folder,
        arguments.output,
        arguments.split or ["train", "val"],
        lists={"train": arguments.cls_label_path_train, "val": arguments.cls_label_path_val},
        delimiter=arguments.delimiter,
        shard_bytes=round(arguments.shard_mb * MEGABYTE),
        seed=arguments.seed,
        log=log,
    )


if __name__ == "__main__":
    run_script(main)
