"""Before a run trains: its folder, what it is, and where it continues."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from logging import Logger
from pathlib import Path
from typing import Any

import paddle

from util.data.preprocessing import Preprocessing
from util.data.workers import remove_leftovers
from util.distributed import World
from util.errors import MismatchError, WeightsError
from util.notes import note_run_folder
from util.options import RunOptions
from util.train.checkpoint import check_same_settings, check_state
from util.train.data import Splits
from util.train.events import EventLog
from util.train.progress import BEST, BEST_EMA, Progress
from util.train.run_folder import RunFolder
from util.weights import recognise
from util.weights.container import Container, read_container

WORKERS = ".workers-"  # and the rank: the processes that load its data


def describe_run(
    splits: Splits, *, config: Mapping[str, Any], result: Mapping[str, Any], processes: int, threads: int
) -> dict[str, Any]:
    """Returns what a checkpoint says about its model and its run.

    config: every resolved setting; result: those that change the result, which must be equal when the run is resumed.
    """
    return {
        "model": {"name": config["model"], "num_classes": splits.num_classes},
        "preprocess": {name: config[name] for name in Preprocessing.__dataclass_fields__},
        "classes": {"folders": splits.train.class_names, "names": splits.class_names},
        "settings": {**result, "processes": processes, "training files": splits.train.fingerprint()},
        "versions": {"paddle": paddle.__version__, "threads": threads},
    }


@dataclass(frozen=True)
class RunStart:
    """A run whose folder is open: what it is, and the checkpoint that it continues from, if there is one."""

    folder: RunFolder
    description: dict[str, Any]  # what a checkpoint says about its model and its run
    config: dict[str, Any]  # every resolved setting, for args.yaml
    container: Container | None
    events: EventLog


def start_run(
    options: RunOptions,
    splits: Splits,
    *,
    config: dict[str, Any],
    result_names: Collection[str],
    resume: str | None,
    threads: int,
    world: World,
    log: Logger,
) -> RunStart:
    """Opens the folder of the run and finds where it continues.

    config: every resolved setting; result_names: those that change the result, which must be equal when it is resumed.
    """
    result = {name: value for name, value in config.items() if name in result_names}
    description = describe_run(splits, config=config, result=result, processes=world.size, threads=threads)
    folder = RunFolder(options.output, options.experiment or config["model"])
    events = EventLog(folder, rank=world.rank)
    with events.recording_failure():
        container = find_start(
            folder,
            resume=resume,
            restart=options.restart,
            checkpoint_interval=options.checkpoint_interval,
            checkpoint_hist=options.checkpoint_hist,
            settings=description["settings"],
            world=world,
            log=log,
        )
        for path in folder.path.glob(f"{WORKERS}*"):  # the main process has the folder's lock: that run is over
            remove_leftovers(path.read_text(encoding="utf-8", errors="replace"))
    if container is not None:
        events.progress = found = Progress(**container.state["progress"])
        log.info(f"{folder.path}: found epoch {found.epoch}, update {found.update}")
    return RunStart(folder, description, config, container, events)


def find_start(
    folder: RunFolder,
    *,
    resume: str | None,
    restart: bool,
    checkpoint_interval: int,
    checkpoint_hist: int,
    settings: Mapping[str, Any],
    world: World,
    log: Logger,
) -> Container | None:
    """Opens the run's folder and returns the checkpoint to continue from, or None for a new run.

    resume: a checkpoint's path; `auto` or None continues the newest of the folder, if it holds a run.
    restart: move what is in the folder aside.
    checkpoint_interval, checkpoint_hist: epochs between numbered checkpoints, and how many of them stay, should a crash
        have left one out or one too many.
    Settings that would change the result are refused with a MismatchError.
    Rank 0 decides, the others read what it chose; the folder must be shared between the nodes.
    """
    chosen: str | None = None
    container: Container | None = None
    if world.is_main:
        path = None if resume in (None, "auto") else Path(str(resume))
        if path is not None and recognise(path) != "checkpoint":
            raise WeightsError(f"{path}: not a checkpoint of this project; to start from it, give it with --pretrained")
        container = None if path is None else read_container(path)
        folder.create()
        if restart and folder.has_run():
            place = folder.move_aside()
            log.info(f"moved the earlier run to {place}")
            if path is not None and not path.exists():  # it was in there
                path = place / path.name
        newest = folder.newest(log)
        if path is None and newest is not None:
            path, container = newest
        elif path is not None and container is not None and newest is not None:
            updates = [c.state["progress"]["update"] for c in (container, newest[1])]
            if updates[0] != updates[1]:
                raise MismatchError(
                    f"{folder.path} holds a run up to update {updates[1]}, {path} is at {updates[0]}; add --restart to "
                    "move that run aside, or choose another --experiment"
                )
        if container is not None:
            progress, _ = check_state(container.state, str(path))
            check_same_settings(container.state["settings"], settings, str(path))
            if path is not None:
                folder.complete(path, progress, checkpoint_interval)
                folder.prune(checkpoint_hist)
        note_run_folder(folder.path)
        chosen = None if path is None else str(path)
    chosen = world.gather(chosen)[0]
    if world.is_main:
        return container
    folder.join()
    return None if chosen is None else read_container(Path(chosen))


def forget_missing_best(progress: Progress, folder: RunFolder, log: Logger) -> None:
    """Lets the best accuracy count anew where its checkpoint is not: damaged, or under the run's earlier name."""
    for suffix, stem in (("", BEST), ("_ema", BEST_EMA)):
        best = getattr(progress, f"best_acc1{suffix}")
        path = folder.file(stem)
        if best >= 0 and not path.exists():
            if any(path.parent.glob(f"{path.name}.damaged*")):
                log.warning(
                    f"{path} was damaged: the weights of its epoch, the best so far with top-1 {best:.2f}, are lost; "
                    "the best accuracy counts anew, so the next epoch is saved there, and then each better one"
                )
            else:
                log.info(f"{path} is not here: the best accuracy, {best:.2f} so far, counts anew")
            setattr(progress, f"best_acc1{suffix}", -1.0)
            setattr(progress, f"best_update{suffix}", -1)
