"""Runs Paddle's launcher with this interpreter: `python launch.py --gpus=0,1 train.py ...`."""

import sys

from paddle.distributed.launch.main import launch

if __name__ == "__main__":
    sys.argv[1:1] = ["--log_dir", "launch_log"]
    launch()
