"""An epoch without anything between its updates."""

from util.stop import StopRequest
from util.train.epoch import EpochHooks

NOTHING_BETWEEN = EpochHooks(stop=StopRequest(), is_due=lambda: False, save=lambda: None, rejected=lambda images: None)
