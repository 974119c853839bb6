"""What a checkpoint says about its model, and whether it has the form that training writes. Imports no paddle."""

from pathlib import Path
from typing import Any

from util.data.preprocessing import Preprocessing
from util.errors import WeightsError
from util.weights.container import peek_state

MAX_CLASSES = 1_000_000
MAX_PERCENT = 100.001  # rounding


def checked_state(state: Any, source: str) -> dict[str, Any]:
    """Returns what a checkpoint says about its model if it has the form that training writes; else a WeightsError."""
    fault = _state_fault(state)
    if fault is not None:
        raise WeightsError(f"{source}: not a usable checkpoint: {fault}")
    return state


def peek_checked_state(path: Path) -> dict[str, Any]:
    """Returns what a file says about its model, its content not verified; empty if this is not of the right form."""
    state = peek_state(path)
    return state if _state_fault(state) is None else {}


def _state_fault(state: Any) -> str | None:
    """Returns what is wrong with a checkpoint's state, which may be any JSON."""
    if not isinstance(state, dict):
        return f"expected named entries about the model, got {_brief(state)}"
    for part in ("model", "preprocess", "classes"):
        if part not in state:
            return f"it says nothing about {part}"
    for part in ("model", "preprocess", "classes", "progress", "made_by", "numerics"):
        if not isinstance(state.get(part, {}), dict):
            return f"{part} must be named entries, got {_brief(state[part])}"
    name, num_classes = state["model"].get("name"), state["model"].get("num_classes")
    if not (isinstance(name, str) and type(num_classes) is int and 0 < num_classes <= MAX_CLASSES):
        return f"model {_brief(name)} with {_brief(num_classes)} classes"
    try:
        Preprocessing.from_plain(state["preprocess"])
    except ValueError as error:
        return f"preprocess: {error}"
    numerics = state.get("numerics", {})
    if numerics and not _are_numerics(numerics):
        return f"numerics {_brief(numerics)}"
    if not isinstance(state.get("made_by", {}).get("command", ""), str):
        return f"made_by command must be a text, got {_brief(state['made_by']['command'])}"
    return _classes_fault(state["classes"], num_classes) or _progress_fault(state.get("progress", {}))


def _are_numerics(values: dict[str, Any]) -> bool:
    """Whether values are what a model's `numerics` returns."""
    act, norm_eps = values.get("act"), values.get("norm_eps")
    is_known = values.keys() == {"act", "norm_eps"} and act in ("gelu", "gelu_tanh")
    return is_known and isinstance(norm_eps, float) and 0.0 < norm_eps <= 1e-3  # what Paddle takes


def _classes_fault(classes: dict[str, Any], num_classes: int) -> str | None:
    folders, names = classes.get("folders"), classes.get("names")
    for what, values in (("names", names), ("folders", folders if folders is not None else names)):
        if not (isinstance(values, list) and all(isinstance(v, str) for v in values)):
            return f"class {what} are not a list of texts"
        if len(values) != num_classes:
            return f"{len(values)} class {what} for {num_classes} classes"
    return "a class folder stands twice" if folders is not None and len(set(folders)) < len(folders) else None


def _progress_fault(progress: dict[str, Any]) -> str | None:
    for name in ("epoch", "update", "best_update", "best_update_ema"):
        if type(progress.get(name, 0)) is not int:
            return f"progress {name} must be a whole number, got {_brief(progress[name])}"
    for name in ("best_acc1", "best_acc1_ema"):
        value = progress.get(name, 0.0)
        if not isinstance(value, int | float) or not -1 <= value <= MAX_PERCENT:
            return f"progress {name} must be in percent, or -1, got {_brief(value)}"
    return None


def _brief(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
