"""What a run writes while it trains: its logs and checkpoints, and where it then stops."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict
from logging import Logger
from typing import Any

from util.data.workers import describe_workers
from util.distributed import World
from util.errors import Stopped
from util.libraries import yaml
from util.log import EpochLog
from util.metrics import Metrics
from util.options import RunOptions
from util.stop import StopRequest, exit_code_of
from util.train.checkpoint import TrainState
from util.train.epoch import EpochResult
from util.train.progress import stems_of
from util.train.run import WORKERS, RunStart
from util.train.saver import Due, SaveClock, Writer, checkpoint_files
from util.train.tracking import WandbRun, is_run_id

WANDB_ID = "wandb-id.txt"


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
        self.events = start.events
        self.events.progress = state.progress
        self.wandb: WandbRun | None = None
        self._writer = Writer(background=options.async_save)
        self._clock = SaveClock(options, update=state.progress.update)
        self._saved = None if start.container is None else state.progress.position()
        self._signal = 0  # that all processes have agreed to obey
        self._workers: list[int] = []
        if world.is_main:
            files = checkpoint_files(options, averaged=state.ema is not None)
            self.folder.check_space(state.nbytes(), copies=files)
            text = yaml.safe_dump(start.config, sort_keys=False, allow_unicode=True, default_flow_style=None)
            self.folder.write_text("args.yaml", text)
            first = state.progress.epoch if start.container is None else self.events.first_epoch()
            for wrong in self.epoch_log.keep_before(state.progress.epoch, first=first):
                log.warning(f"{self.epoch_log.path}: {wrong}")
            self.events.add_start(resumed=start.container is not None, processes=world.size)
            if options.log_wandb:
                self._start_wandb(start.config)

    def _start_wandb(self, config: Mapping[str, Any]) -> None:
        self.wandb = WandbRun(
            project=self.options.wandb_project,
            name=self.folder.path.name,
            config=dict(config),
            folder=str(self.folder.path),
            run_id=self._known_wandb_id(),
        )
        # at once, for a run that is killed before its first checkpoint
        self.folder.write_text(WANDB_ID, self.wandb.run_id + "\n")
        self.state.progress.wandb_id = self.wandb.run_id

    def _known_wandb_id(self) -> str | None:
        """Returns the id that the folder knows, or else the checkpoint; None: a new one is needed."""
        path, saved = self.folder.path / WANDB_ID, self.state.progress.wandb_id
        if not path.exists():
            return saved
        try:
            found = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            found = ""
        if is_run_id(found):
            return found
        instead = "a new one begins" if saved is None else f"the checkpoint's, {saved}, goes on"
        self.log.warning(f"{path}: is damaged, and names no run at Weights & Biases; {instead}")
        return saved

    def due(self) -> Due:
        """What to do now; all processes ask at the same place of the run, and get the same answer."""
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

    def between_batches(self) -> None:
        """For an evaluation: saves what was trained if it is time to, and ends the run if it is to stop."""
        if self.due().save:
            self.save()

    def save(self) -> None:
        """Saves, before an epoch is complete; raises Stopped, when all is written, if the run is to stop."""
        progress = self.state.progress
        if progress.position() != self._saved:
            self._write(stems_of(progress, 0))
        if not self._signal:
            return
        self._writer.wait()
        name = signal.Signals(self._signal).name
        if self.world.is_main:
            self.events.add("stop", signal=name)
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
        event = self.events.line("save")

        def write() -> None:
            self.folder.save(tensors, plain, stems=stems, keep=keep)
            self.events.append(event)

        self._writer.do(write)

    def finish_writing(self) -> None:
        """Waits until the last save is written.

        So before a fork: the child would have the unfinished file open as long as it lives, and find every lock that
        the writing thread held at that moment locked for ever.
        """
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
            self.events.add("finish")
        if self.wandb is not None:
            self.wandb.finish()
        self.log.info(f"finished; checkpoints and logs are in {self.folder.path}")
