"""Which parameters are not trained."""

from paddle import nn

from util.errors import UsageError
from util.train.batch_norm import batch_norms, freeze_statistics


def freeze(model: nn.Layer, patterns: tuple[str, ...]) -> list[str]:
    """Takes parameters out of training, before the optimizer and the average are built; returns their names.

    patterns: `backbone` is all but the head; `bn` is every BatchNorm's scale, shift and running statistics; anything
    else is the beginning of parameter names up to a dot or the end, such as `stage0` or `stage2.blocks.3`.

    A BatchNorm all of whose parameters are frozen keeps its running statistics and normalises with them. A pattern that
    matches nothing, and patterns that leave nothing to train, are a UsageError.
    """
    trainable = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
    norms = dict(batch_norms(model))
    frozen: set[str] = set()
    for pattern in patterns:
        if pattern == "backbone":
            found = {name for name in trainable if not _begins(name, "head")}
        elif pattern == "bn":
            found = {name for name in trainable if name.rpartition(".")[0] in norms}
        else:
            found = {name for name in trainable if _begins(name, pattern)}
        if not found:
            tops = ", ".join(dict.fromkeys(name.partition(".")[0] for name in trainable))
            raise UsageError(f"freeze: {pattern!r} matches no parameter; use backbone, bn, or what begins with {tops}")
        frozen |= found
    if frozen == trainable.keys():
        raise UsageError(f"freeze: {' '.join(patterns)} leaves nothing to train; leave some out")
    for name in frozen:
        trainable[name].stop_gradient = True
    for layer in norms.values():
        own = [p for p in (layer.weight, layer.bias) if p is not None]
        if own and all(p.stop_gradient for p in own):
            freeze_statistics(layer)
    return [name for name in trainable if name in frozen]


def _begins(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(f"{pattern}.")
