"""Weights & Biases, for those who want it."""

import threading
from typing import Any

from util.errors import UsageError

RESERVED = frozenset("/\\#?%:;,'")  # characters that an id at Weights & Biases must not have
PATIENCE = 5.0  # seconds that a run which was told to stop waits for Weights & Biases


def is_run_id(text: str) -> bool:
    """Whether a text can be a run's id at Weights & Biases."""
    return 0 < len(text) <= 128 and text.isprintable() and not set(text) & RESERVED


class WandbRun:
    """A run at Weights & Biases; `WANDB_MODE=offline` keeps it on this machine."""

    def __init__(self, *, project: str | None, name: str, config: dict[str, Any], folder: str, run_id: str | None):
        try:
            import wandb
        except ImportError:
            raise UsageError("--log_wandb needs wandb: pip install 'wandb>=0.16,<1'") from None
        try:
            self._run = wandb.init(project=project, name=name, config=config, dir=folder, id=run_id, resume="allow")
        except wandb.errors.Error as error:
            reason = str(error).strip().splitlines()[0]
            raise UsageError(f"--log_wandb: {reason}; log in with `wandb login`, or set WANDB_MODE=offline") from None

    @property
    def run_id(self) -> str:
        return str(self._run.id)

    def log(self, values: dict[str, Any]) -> None:
        """Adds an epoch's values."""
        self._run.log(values, step=values["epoch"])

    def finish(self) -> None:
        """Ends the run; waits until all is sent."""
        self._run.finish()

    def pause(self) -> None:
        """Ends this part of a run that is told to stop, within seconds; the same run goes on when it is resumed."""
        thread = threading.Thread(target=self._run.finish, kwargs={"exit_code": 1, "quiet": True}, daemon=True)
        thread.start()
        thread.join(timeout=PATIENCE)
