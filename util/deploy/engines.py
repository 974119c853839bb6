"""Running an exported program: Paddle Inference."""

from collections.abc import Callable

import numpy as np

from util.deploy.bundle import Bundle
from util.errors import UsageError, WeightsError

Forward = Callable[[np.ndarray], np.ndarray]  # images float32 (B, C, H, W) -> logits float32 (B, K)


def paddle_engine(bundle: Bundle, *, device: str, threads: int, onednn: bool) -> Forward:
    """Returns a function that runs the program. One caller at a time: predictors are not to be shared by threads.

    device: `cpu` or `gpu[:N]`; threads: of CPU arithmetic; onednn: use oneDNN's kernels on CPU.
    """
    import paddle.inference as inference

    config = inference.Config(str(bundle.program), str(bundle.params))
    config.disable_glog_info()
    if device.startswith("gpu"):
        number = int(device.partition(":")[2] or 0)
        config.enable_use_gpu(256, number)
    elif device == "cpu":
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(threads)
        if onednn:
            config.enable_mkldnn()
        else:
            config.disable_mkldnn()
    else:
        raise UsageError(f"infer.py runs on cpu or gpu; got --device {device}")
    try:
        predictor = inference.create_predictor(config)
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise WeightsError(f"{bundle.program}: Paddle Inference cannot load it: {reason}") from None
    source = predictor.get_input_handle(predictor.get_input_names()[0])
    target = predictor.get_output_handle(predictor.get_output_names()[0])

    def forward(images: np.ndarray) -> np.ndarray:
        source.copy_from_cpu(np.ascontiguousarray(images, dtype=np.float32))
        predictor.run()
        return target.copy_to_cpu()

    return forward
