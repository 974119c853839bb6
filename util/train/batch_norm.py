"""BatchNorm's running statistics: which ones training moves, and over which processes a batch is normalised."""

from collections.abc import Iterator

from paddle import Tensor, nn

BatchNorm = nn.BatchNorm1D | nn.BatchNorm2D | nn.BatchNorm3D | nn.SyncBatchNorm


def batch_norms(model: nn.Layer) -> Iterator[tuple[str, nn.Layer]]:
    """Yields the name and the layer of every BatchNorm."""
    return ((name, layer) for name, layer in model.named_sublayers() if isinstance(layer, BatchNorm))


def freeze_statistics(layer: nn.Layer) -> None:
    """Makes a BatchNorm use its running statistics in training too, and leave them as they are.

    `model.train()` does not undo it, and copies of the layer inherit it.
    """
    assert not isinstance(layer, nn.SyncBatchNorm), "Paddle's SyncBatchNorm cannot: freeze before synchronising"
    layer._use_global_stats = True  # the constructor's use_global_stats


def has_frozen_statistics(layer: nn.Layer) -> bool:
    """Whether `freeze_statistics` was called on a BatchNorm."""
    return bool(layer._use_global_stats)


def moving_statistics(model: nn.Layer) -> dict[str, Tensor]:
    """Returns the running means and variances that training moves, by their names in the state dict."""
    layers = {name: layer for name, layer in batch_norms(model) if not has_frozen_statistics(layer)}
    return {
        f"{name}.{which}": getattr(layer, which) for name, layer in layers.items() for which in ("_mean", "_variance")
    }


def synchronise_batch_norm(model: nn.Layer) -> list[str]:
    """Replaces, in place, each BatchNorm by a SyncBatchNorm, which normalises over the batches of all processes.

    Parameters and statistics are the same tensors under the same names. A BatchNorm with frozen statistics stays: it
    needs no batch, and SyncBatchNorm always takes one. Returns the names of the replaced layers.
    """
    replaced = []
    for name, layer in list(batch_norms(model)):
        if has_frozen_statistics(layer):
            continue
        place, _, last = name.rpartition(".")
        parent = model
        for part in place.split(".") if place else []:
            parent = parent._sub_layers[part]
        synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
        synchronised.training = layer.training
        parent.add_sublayer(last, synchronised)
        replaced.append(name)
    return replaced
