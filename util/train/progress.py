"""How far a run is, and which checkpoints belong to that place."""

from dataclasses import dataclass, field
from typing import Any

LATEST, PREVIOUS, BEST, BEST_EMA = (
    "checkpoint-latest", "checkpoint-previous", "checkpoint-best", "checkpoint-best-ema",
)  # fmt: skip


@dataclass
class Progress:
    """How far a run is. Accuracies in percent; a best of -1 means that there was no evaluation yet.

    A run is saved between two updates: `update` of them are made, `iteration` micro-batches of `epoch` are trained.
    """

    epoch: int = 0  # the next one to train, or the one being trained
    iteration: int = 0
    trained: bool = False  # the epoch's training is complete, its statistics are averaged; its evaluation is missing
    update: int = 0
    skipped_in_a_row: int = 0  # the last updates, whose gradients overflowed
    sums: list[dict[str, Any]] = field(default_factory=list)  # what each process has added up in this epoch
    best_acc1: float = -1.0
    best_acc1_ema: float = -1.0
    best_update: int = -1  # the update at which best_acc1 was measured
    best_update_ema: int = -1
    wandb_id: str | None = None

    def start_at(self, epoch: int) -> None:
        """Lets training go on at the beginning of an epoch, unless it is already in the middle of that one."""
        if self.epoch != epoch:
            self.epoch, self.iteration, self.trained, self.sums = epoch, 0, False, []

    def position(self) -> tuple[int, int, int, bool]:
        """Returns what is greater the further the run is."""
        return self.update, self.epoch, self.iteration, self.trained

    def at_end_of_epoch(self) -> bool:
        """Whether an epoch was just completed: trained, evaluated, and counted."""
        return self.iteration == 0 and not self.trained and self.update > 0


def stems_of(progress: Progress, interval: int) -> list[str]:
    """Returns the names, without suffix, under which the checkpoint of this progress belongs.

    interval: checkpoint_interval. All are copies of one file, so those that a crash left out can be made up for.
    """
    stems = [LATEST]
    if not progress.at_end_of_epoch():
        return stems
    if progress.best_update == progress.update:
        stems.append(BEST)
    if progress.best_update_ema == progress.update:
        stems.append(BEST_EMA)
    if interval and progress.epoch % interval == 0:
        stems.append(f"checkpoint-{progress.update:09d}")
    return stems
