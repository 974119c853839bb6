"""Weights & Biases, for those who want it."""

from typing import Any

from util.errors import UsageError


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
        self._run.finish()
