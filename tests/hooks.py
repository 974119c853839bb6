"""An epoch without anything between its updates."""

from util.stop import StopRequest
from util.train.epoch import EpochHooks
from util.train.saver import Due

NOTHING_BETWEEN = EpochHooks(
    stop=StopRequest(), due=lambda: Due(look=False, save=False), save=lambda: None, rejected=lambda images: None
)
