"""Bad image files are an error with path and reason, at once and in little memory; the fast backend agrees."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.scripts.run import ROOT
from tests.util.data.test_images_odd import BAD_BYTES, BAD_PLACES, EXACT, NEAR, SAME_AS_BASELINE, bomb, make_unreadable
from util.data.backends import load_backend
from util.data.images import ImageError, decode_image


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bad_content_is_an_error_with_path_and_reason(name: str, tmp_path: Path) -> None:
    data, reason = BAD_BYTES[name]
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    began = time.process_time()
    with pytest.raises(ImageError, match=reason) as caught:
        decode_image(path)
    assert time.process_time() - began < 1
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize("name", BAD_PLACES)
def test_bad_place_is_an_error_with_path_and_reason(name: str, tmp_path: Path) -> None:
    make, reason = BAD_PLACES[name]
    make(tmp_path / "picture.jpg")
    with pytest.raises(ImageError, match=f"picture.jpg: {reason}"):
        decode_image(tmp_path / "picture.jpg")


def test_name_that_is_too_long_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="File name too long"):
        decode_image(tmp_path / ("x" * 300 + ".jpg"))


def test_file_without_permission_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, whom no permission stops: then what others get is raised in its place."""
    path = tmp_path / "picture.jpg"
    make_unreadable(path)
    if os.geteuid() == 0:

        def refuse(*arguments: Any, **options: Any) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageError, match=r"picture\.jpg: Permission denied"):
        decode_image(path)


def test_bomb_takes_little_memory(tmp_path: Path) -> None:
    """A process that may use 1 GB, where the picture would take 10.8."""
    (tmp_path / "bomb.png").write_bytes(bomb())
    code = (
        "import re, sys; from util.data.images import ImageError, decode_image\n"
        "try: decode_image(sys.argv[1])\n"
        "except ImageError as error: print(error)\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"  # ru_maxrss is also the parent's
    )
    limit = 1 << 30
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "bomb.png"], cwd=ROOT, capture_output=True, text=True, check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )  # fmt: skip
    reason, kilobytes = done.stdout.splitlines()
    assert "has 3600000000 pixels, more than" in reason
    assert int(kilobytes) < 200_000


@pytest.mark.parametrize("name", [*EXACT, *SAME_AS_BASELINE, *NEAR])
def test_fast_backend_sees_the_same_picture(name: str) -> None:
    data = EXACT[name][0] if name in EXACT else SAME_AS_BASELINE[name] if name in SAME_AS_BASELINE else NEAR[name][0]
    expected = decode_image(data)
    whole, size = (0, 0, *expected.size), (expected.height, expected.width)
    backend = load_backend("fast")
    found = backend.resize_box(backend.decode(data), whole, size, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize("name", BAD_BYTES)
def test_fast_backend_has_the_same_error(name: str) -> None:
    data, _ = BAD_BYTES[name]
    with pytest.raises(ImageError) as expected:
        decode_image(data)
    backend = load_backend("fast")
    with pytest.raises(ImageError) as found:
        backend.resize_box(backend.decode(data), (0, 0, 8, 8), (8, 8), Image.Resampling.BICUBIC)
    assert found.value.reason == expected.value.reason
