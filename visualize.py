"""Draws what a model looks at, as pictures: class attention, attention rollout, Grad-CAM; of ConViT also its gates.

    python visualize.py --infer_imgs demo/chelsea.jpg --resume CHECKPOINT --output output/visualize

For each image: its picture as the model saw it with each map over it, and a contact sheet of all. Standard output has a
line an image. README.md says what the maps are, and what they do not say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from util import options, runtime
from util.data.images import ImageError
from util.errors import UsageError, run_script
from util.files import as_line
from util.inputs import collect_inputs
from util.prediction import load_images, refuse_unreadable, top_k
from util.settings import Settings, parse
from util.weights.sources import list_if_asked

NUM_WORKERS = 2  # threads that load images; drawing takes most of the time


@dataclass(frozen=True, kw_only=True)
class VisualizeSettings(Settings):
    visualize: options.VisualizeOptions
    font: options.FontOptions
    names: options.ClassNamesOptions
    preprocess: options.PreprocessOptions
    model: options.ModelOptions
    weights: options.WeightsOptions
    ema: options.EmaChoiceOptions
    device: options.DeviceOptions
    threads: options.ThreadOptions


def main(argv: Sequence[str] | None = None) -> None:
    settings = parse(VisualizeSettings, argv, description=__doc__ or "")
    if list_if_asked(settings.weights.pretrained):
        return
    wanted = settings.visualize
    files = collect_inputs(wanted.infer_imgs, option="--infer_imgs")
    runtime.start(settings.threads.cpu_threads)

    # What imports paddle comes after `runtime.start`, which sets what Paddle reads when it loads.
    import paddle

    import models
    from models import saliency
    from util import distributed
    from util.log import start_logging
    from util.restore import chosen_weights, restore
    from util.seeing.colours import seen_picture
    from util.seeing.folder import PictureFolder
    from util.seeing.fonts import choose_face
    from util.seeing.looks import TITLES, Look, write_look
    from util.seeing.sheets import gates_sheet, positions_sheet

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
    if wanted.class_id is not None and wanted.class_id >= trained.num_classes:
        raise UsageError(f"--class_id {wanted.class_id}: {trained.name} has the classes 0 to {trained.num_classes - 1}")
    preprocessing = trained.preprocessing
    face = choose_face(chain(trained.class_names, files), settings.font.font)
    folder = PictureFolder(wanted.output)

    # What depends on no image
    if saliency.gated_layers(trained.model):
        gates, positions = saliency.gates(trained.model), saliency.position_maps(trained.model)
        folder.write_picture("gates", gates_sheet(gates, model=trained.name, face=face))
        folder.write_picture("positions", positions_sheet(positions, model=trained.name, face=face))

    # Each image: one forward pass, its maps, its pictures
    bad: list[ImageError] = []
    images = load_images(
        files, range(len(files)), transform=preprocessing.transform(), num_workers=NUM_WORKERS, ahead=2 * NUM_WORKERS
    )
    for file, image in images:
        if isinstance(image, ImageError):
            bad.append(image)
            continue
        watched = saliency.watch(trained.model, paddle.to_tensor(image[None]))
        (prediction,) = top_k(watched.logits.numpy(), [file], trained.class_names)
        class_id = prediction["class_ids"][0] if wanted.class_id is None else wanted.class_id
        look = Look(
            picture=seen_picture(image, preprocessing.mean, preprocessing.std),
            prediction=prediction,
            maps={kind: saliency.compute_map(kind, watched, [class_id])[0] for kind in wanted.kind or TITLES},
            explained=(class_id, trained.class_names[class_id]),
        )
        sheet = write_look(look, folder, model=trained.name, alpha=wanted.alpha, face=face, save_maps=wanted.save_maps)
        best = f"{prediction['label_names'][0]} ({100 * prediction['scores'][0]:.2f} %)"
        print(as_line(f"{file}: {best}, {sheet}"))
    refuse_unreadable(bad, len(files))


if __name__ == "__main__":
    run_script(main)
