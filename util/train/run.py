"""A run from outside: where it continues, what it writes after each epoch."""

import contextlib
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from logging import Logger
from pathlib import Path
from typing import Any

import paddle
import yaml

from util.control import LostPeerError
from util.data.preprocessing import Preprocessing
from util.data.workers import describe_workers, remove_leftovers
from util.distributed import World
from util.errors import INTERNAL, INTERRUPTED, MismatchError, SaveError, Stopped, WeightsError
from util.log import EpochLog
from util.metrics import Metrics
from util.options import RunOptions
from util.processes import note_run_folder
from util.stop import StopRequest, exit_code_of
from util.train.checkpoint import TrainState, check_same_settings, check_state
from util.train.data import Splits
from util.train.epoch import EpochResult
from util.train.events import EventLog
from util.train.progress import BEST, BEST_EMA, Progress, stems_of
from util.train.run_folder import RunFolder
from util.train.saver import Due, SaveClock, Writer, checkpoint_files
from util.train.tracking import WandbRun
from util.weights import recognise
from util.weights.container import Container, read_container

WANDB_ID = "wandb-id.txt"
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
        found = container.state["progress"]
        log.info(f"{folder.path}: found epoch {found['epoch']}, update {found['update']}")
    return RunStart(folder, description, config, container)


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
    if world.is_main or chosen is None:
        return container
    return read_container(Path(chosen))


def forget_missing_best(progress: Progress, folder: RunFolder, log: Logger) -> None:
    """Lets the best accuracy count anew where its checkpoint is not, as in a run continued under another name."""
    for suffix, stem in (("", BEST), ("_ema", BEST_EMA)):
        best = getattr(progress, f"best_acc1{suffix}")
        if best >= 0 and not folder.file(stem).exists():
            log.info(f"{folder.file(stem)} is not here: the best accuracy, {best:.2f} so far, counts anew")
            setattr(progress, f"best_acc1{suffix}", -1.0)
            setattr(progress, f"best_update{suffix}", -1)


class RunRecorder:
    """Writes a run's logs and checkpoints; on ranks other than the main one it only keeps the count."""

    def __init__(
        self,
        start: RunStart,
        state: TrainState,
        *,
        options: RunOptions,
        stop: StopRequest,
        worker_pids: Callable[[], list[int]],
        world: World,
        log: Logger,
    ) -> None:
        self.folder = start.folder
        self.state = state
        self.options = options
        self.stop = stop
        self.worker_pids = worker_pids
        self.description = start.description
        self.world = world
        self.log = log
        self.epoch_log = EpochLog(self.folder.path / "log.txt")
        self.events = EventLog(self.folder)
        self.wandb: WandbRun | None = None
        self._writer = Writer(background=options.async_save)
        self._clock = SaveClock(options, update=state.progress.update)
        self._saved = None if start.container is None else state.progress.position()
        self._signal = 0  # that all processes have agreed to obey
        self._workers: list[int] = []
        if world.is_main:
            files = checkpoint_files(options, averaged=state.ema is not None)
            self.folder.check_space(state.nbytes(), copies=files)
            for number in self.epoch_log.keep_before(state.progress.epoch):
                log.warning(f"{self.epoch_log.path}: line {number} was damaged; it is left out")
            text = yaml.safe_dump(start.config, sort_keys=False, allow_unicode=True, default_flow_style=None)
            self.folder.write_text("args.yaml", text)
            self.events.add_start(state.progress, resumed=start.container is not None, processes=world.size)
            if options.log_wandb:
                self._start_wandb(start.config)

    def _start_wandb(self, config: Mapping[str, Any]) -> None:
        known = self.folder.path / WANDB_ID  # at once, for a run that is killed before its first checkpoint
        run_id = known.read_text(encoding="utf-8").strip() if known.exists() else self.state.progress.wandb_id
        self.wandb = WandbRun(
            project=self.options.wandb_project,
            name=self.folder.path.name,
            config=dict(config),
            folder=str(self.folder.path),
            run_id=run_id or None,
        )
        self.folder.write_text(WANDB_ID, self.wandb.run_id + "\n")
        self.state.progress.wandb_id = self.wandb.run_id

    def due(self) -> Due:
        """What to do now; all processes ask between the same two updates, and get the same answer."""
        self._writer.check()
        self._note_workers()
        wanted = self.world.is_main and self._clock.is_due(self.state.progress.update)
        curious = self.world.is_main and self._clock.is_time_to_look()
        self._signal, save, look = self.world.agree(self.stop.signal, wanted, curious)
        return Due(look=bool(self._signal or save or look), save=bool(self._signal or save))

    def wait_for_data(self) -> None:
        """Called while a batch is awaited: raises StopWaiting if the run is to stop."""
        self._note_workers()
        self.stop.check_waiting()

    def _note_workers(self) -> None:
        """Notes which processes load data, for the next start to clear up after them if all are killed."""
        if (pids := self.worker_pids()) != self._workers:
            self._workers = pids
            self.folder.write_text(f"{WORKERS}{self.world.rank}", describe_workers(pids))

    def stop_if_asked(self) -> None:
        """Saves and ends the run if one of the processes was told to stop; all ask equally often."""
        self._note_workers()
        (self._signal,) = self.world.agree(self.stop.signal)
        if self._signal:
            self.save()

    def save(self) -> None:
        """Saves, in the middle of an epoch; raises Stopped, when all is written, if the run is to stop."""
        progress = self.state.progress
        if progress.position() != self._saved:
            self._write(stems_of(progress, 0))
        if not self._signal:
            return
        self._writer.wait()
        name = signal.Signals(self._signal).name
        if self.world.is_main:
            self.events.add("stop", progress, signal=name)
            if self.wandb is not None:
                self.wandb.pause()
        self.world.barrier()  # a process that ended earlier would make the launcher end the others
        raise Stopped(
            f"stopped by {name} at epoch {progress.epoch}, update {progress.update}; a checkpoint is complete, the "
            "same command continues the run",
            exit_code=exit_code_of(self._signal),
        )

    def _write(self, stems: list[str]) -> None:
        """Copies the state, on all processes, and has it written, on the main one."""
        progress = self.state.progress
        self._saved = progress.position()
        self._clock.saved(progress.update)
        in_epoch = progress.iteration > 0 and not progress.trained
        others = self.state.statistics_of_ranks(self.world) if in_epoch else {}
        if not self.world.is_main:
            return
        tensors, plain = self.state.tensors() | others, self.state.plain(self.description)
        keep = self.options.checkpoint_hist
        event = self.events.line("save", progress)

        def write() -> None:
            self.folder.save(tensors, plain, stems=stems, keep=keep)
            self.events.append(event)

        self._writer.do(write)

    def finish_writing(self) -> None:
        """Waits until the last save is written."""
        self._writer.wait()

    def finish_epoch(self, trained: EpochResult, tested: Metrics, tested_ema: Metrics | None = None) -> None:
        """Counts the epoch, then writes its line and its checkpoints; a crash between loses nothing."""
        progress = self.state.progress
        epoch = progress.epoch
        progress.epoch, progress.iteration, progress.trained, progress.sums = epoch + 1, 0, False, []
        if tested.top1 > progress.best_acc1:
            progress.best_acc1, progress.best_update = tested.top1, progress.update
        if tested_ema is not None and tested_ema.top1 > progress.best_acc1_ema:
            progress.best_acc1_ema, progress.best_update_ema = tested_ema.top1, progress.update
        if self.world.is_main:
            self._writer.wait()  # at most one line of the log is ahead of the checkpoints
            self.folder.check_held()
            line = self._line(epoch, trained, tested, tested_ema)
            self.epoch_log.append(line)
            if self.wandb is not None:
                self.wandb.log(line)
        self._write(stems_of(progress, self.options.checkpoint_interval))
        averaged = "" if tested_ema is None else f"  averaged {tested_ema.top1:.2f}"
        self.log.info(
            f"Epoch: [{epoch}]  top-1 {tested.top1:.2f}  top-5 {tested.top5:.2f}  loss {tested.loss:.4f}{averaged}  "
            f"best {progress.best_acc1:.2f}  on {tested.images} images"
        )

    def _line(
        self, epoch: int, trained: EpochResult, tested: Metrics, tested_ema: Metrics | None
    ) -> dict[str, float | int]:
        progress = self.state.progress
        values: dict[str, float | int] = {"epoch": epoch, **asdict(trained)}
        for suffix, metrics, best in (("", tested, progress.best_acc1), ("_ema", tested_ema, progress.best_acc1_ema)):
            if metrics is not None:
                values |= {
                    f"test_loss{suffix}": metrics.loss,
                    f"test_acc1{suffix}": metrics.top1,
                    f"test_acc5{suffix}": metrics.top5,
                    f"best_acc1{suffix}": best,
                }
        return values

    def close(self) -> None:
        """Ends the run, when its last checkpoint is written."""
        self._writer.wait()
        self.world.barrier()
        if self.world.is_main:
            self.events.add("finish", self.state.progress)
        if self.wandb is not None:
            self.wandb.finish()
        self.log.info(f"finished; checkpoints and logs are in {self.folder.path}")

    @contextlib.contextmanager
    def recording_failure(self) -> Iterator[None]:
        """Adds what ends the run to its events; what is being written then still is."""
        try:
            yield
        except Stopped:
            raise
        except BaseException as error:
            self._record_failure(error)
            raise

    def _record_failure(self, error: BaseException) -> None:
        """Every process says what went wrong with it; the main one not, that it lost another which has said so."""
        if isinstance(error, LostPeerError) and (not self.world.is_main or self.events.last_event() == "fail"):
            return
        code = getattr(error, "exit_code", INTERRUPTED if isinstance(error, KeyboardInterrupt) else INTERNAL)
        reason = str(error) or repr(error)
        line = self.events.line("fail", self.state.progress, rank=self.world.rank, exit_code=code, reason=reason)
        with contextlib.suppress(OSError, SaveError):  # the disk may be full; the error itself is what counts
            self.events.append(line, patient=False)
