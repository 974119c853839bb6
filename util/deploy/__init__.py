"""The exported bundle and the engines that run it. Nothing here imports `models` or training code."""
