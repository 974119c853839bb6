"""Classifies images with a checkpoint.

    python predict.py --infer_imgs demo/chelsea.jpg --resume CHECKPOINT

Standard output is one Python literal: a list of dicts with class_ids, scores, file_name, label_names. With --draw DIR
each picture is written there, too, with its best classes below it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from util import options, runtime
from util.data.images import ImageError
from util.errors import run_script
from util.inputs import collect_inputs
from util.prediction import predict_files, refuse_unreadable, write_predictions
from util.settings import Settings, parse
from util.weights.sources import list_if_asked


@dataclass(frozen=True, kw_only=True)
class PredictSettings(Settings):
    predict: options.PredictOptions
    font: options.FontOptions
    names: options.ClassNamesOptions
    batch: options.BatchOptions
    preprocess: options.PreprocessOptions
    model: options.ModelOptions
    weights: options.WeightsOptions
    ema: options.EmaChoiceOptions
    device: options.DeviceOptions
    threads: options.ThreadOptions


def main(argv: Sequence[str] | None = None) -> None:
    settings = parse(PredictSettings, argv, description=__doc__ or "")
    if list_if_asked(settings.weights.pretrained):
        return
    files = collect_inputs(settings.predict.infer_imgs, option="--infer_imgs")
    runtime.start(settings.threads.cpu_threads)

    # What imports paddle comes after `runtime.start`, which sets what Paddle reads when it loads.
    import numpy as np
    import paddle

    import models
    from util import distributed
    from util.log import start_logging
    from util.restore import chosen_weights, restore
    from util.seeing.bars import draw_each
    from util.seeing.folder import PictureFolder
    from util.seeing.fonts import choose_face

    # Weights, and what they say about preprocessing and classes
    start_logging(is_main=True)
    distributed.start(settings.device.device)
    trained = restore(
        chosen_weights(settings.weights, settings.on_command_line),
        settings.model,
        settings.preprocess,
        use_ema=settings.ema.use_ema,
        names_file=settings.names.class_names,
        registry=models,
    )

    @paddle.no_grad()
    def forward(images: np.ndarray) -> np.ndarray:
        return trained.model(paddle.to_tensor(images)).numpy()

    # Prediction, in fp32
    bad: list[ImageError] = []
    predictions = predict_files(
        files,
        transform=trained.preprocessing.transform(),
        forward=forward,
        class_names=trained.class_names,
        batch_size=settings.batch.batch_size,
        bad=bad,
    )
    if settings.predict.draw is not None:
        face = choose_face(trained.class_names, settings.font.font)
        predictions = draw_each(predictions, PictureFolder(settings.predict.draw), face, bad=bad)
    write_predictions(predictions, settings.predict.output)
    refuse_unreadable(bad, len(files))


if __name__ == "__main__":
    run_script(main)
