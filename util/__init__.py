"""What the scripts share, besides the models.

The first thing that a script imports, so the environment is checked here: in a Python or with libraries that are too
old, everything after this would fail with a message that says less. Here are only the libraries without which nothing
runs; infer.py and serve.py do with them and an engine (deploy/requirements.txt). `util.libraries` has the others.
"""

import sys
from importlib import metadata

PYTHON = ((3, 11), (3, 13))
NEEDED_BY_ALL = ("numpy", "Pillow")
LIBRARIES = {"numpy": (1, 26), "Pillow": (12, 3), "PyYAML": (6, 0), "safetensors": (0, 6), "tqdm": (4, 66)}


def check_environment() -> None:
    """Exits with 2 and one line if Python or a library that everything needs is not in the tested range."""
    if not PYTHON[0] <= sys.version_info[:2] <= PYTHON[1]:
        oldest, newest = (".".join(map(str, version)) for version in PYTHON)
        _refuse("Python {} to {} is needed; this is {}.{}".format(oldest, newest, *sys.version_info[:2]))
    check_libraries(*NEEDED_BY_ALL)


def check_libraries(*names: str) -> None:
    """Exits with 2 and one line if one of these libraries of requirements.txt is missing or too old."""
    for name in names:
        oldest_version = LIBRARIES[name]
        wanted = "{}>={}".format(name, ".".join(map(str, oldest_version)))
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            _refuse(wanted + " is not installed; install it: pip install -r requirements.txt")
        if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < oldest_version:
            _refuse(wanted + " is needed, found " + version + "; update it: pip install -r requirements.txt")


def _refuse(reason: str) -> None:
    print("error: " + reason, file=sys.stderr)
    sys.exit(2)


check_environment()
