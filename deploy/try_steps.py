"""Tries deploy/Dockerfile where there is no container engine: takes its steps in an empty folder, and uses the server.

    python -m deploy.try_steps --model_dir EXPORT [--folder FOLDER]

What pip installs is what the image gets. The server runs as the image's user, if root starts this with a Python that
others may start, and must write nothing there. It is asked for its health and the classes of a picture, and must end
well when it is told to stop; the one line of standard output says so. The steps of the GPU's image change more than a
folder: they need an engine.
"""

import os
import shlex
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.dockerfile import read_dockerfile
from deploy.steps import Image, build, choose_user, read_only, started
from util.errors import DataError, MissingInputError, ResumableError, UsageError, run_script
from util.settings import tool_parser

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "demo" / "chelsea.jpg"
FROM_HERE = ("PIP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")  # how pip gets out


def main(argv: Sequence[str] | None = None) -> None:
    parser = tool_parser("deploy.try_steps", __doc__)
    parser.add_argument("--model_dir", required=True, help="export that the server is to answer with")
    parser.add_argument("--folder", help="empty folder that takes the place of the image, and is kept; none: a new one")
    arguments = parser.parse_args(argv)
    model = Path(arguments.model_dir).resolve()
    if not model.exists():
        raise MissingInputError(f"{model}: no such export")
    if arguments.folder is not None:
        folder = Path(arguments.folder).resolve()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder}: is not an empty folder")
        try_in(folder, model)
        return
    with tempfile.TemporaryDirectory(prefix="image.") as folder_name:
        Path(folder_name).chmod(0o755)  # for the image's user
        try_in(Path(folder_name), model)


def try_in(folder: Path, model: Path) -> None:
    """Builds below the folder, and tries the server with an export. What goes wrong is a UserError."""
    base, steps = read_dockerfile((ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")).chain({"DEVICE": "cpu"})
    say(f"FROM {base}: a virtual environment of Python {sys.version.split()[0]} stands for it")
    venv.create(folder / "base", with_pip=True, symlinks=True)
    path = f"{folder / 'base' / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"
    image = build(steps, context=ROOT, root=folder / "root", environment={"PATH": path}, run=run_step)
    with read_only(folder) as written:
        who = choose_user(image)
        prediction = use(image, model)
        if changed := written():
            raise DataError(f"the server wrote to what is read-only in a container: {', '.join(changed[:10])}")
    print(f"the steps work, {who}: {PICTURE.name} is {prediction['label_names'][0]}; nothing was written; ended with 0")


def run_step(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
    """Runs a command of RUN as in the image, but that pip may go where it goes here."""
    say(f"RUN {command[-1]}")
    here = {name: value for name, value in os.environ.items() if name.upper().startswith(FROM_HERE)}
    done = subprocess.run(
        command, cwd=folder, env={**here, **environment}, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False
    )
    if done.returncode != 0:
        raise ResumableError(f"RUN {command[-1]}: ended with {done.returncode}")


def use(image: Image, model: Path) -> dict[str, list[object]]:
    """Returns what the server says of a picture, between its start and its end."""
    arguments = ("--model_dir", str(model))
    say(f"ENTRYPOINT {shlex.join([*image.entrypoint, *arguments])}")
    with started(image, arguments) as container:
        container.wait_healthy()
        say("HEALTHCHECK: ready")
        prediction = container.classify(PICTURE.read_bytes())
        code = container.stop()
    if code != 0:
        raise DataError(f"the server ended with {code} after {image.stop_signal.name}")
    return prediction


def say(words: str) -> None:
    """Prints a line to standard error."""
    print(words, file=sys.stderr)


if __name__ == "__main__":
    run_script(main)
