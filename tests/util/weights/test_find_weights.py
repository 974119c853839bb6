"""What names weights: files, published names, mirrors, and where fetched files are kept."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from models import canonical_name
from tests.http_files import CONTENT, FileServer
from tests.util.weights.test_download import DIGEST, QUICK, ROOT, source_at
from util.errors import MissingInputError, UsageError
from util.weights import download
from util.weights.download import address, cache_folder, cached, find_weights
from util.weights.sources import require_source

# -- places and names -------------------------------------------------------------------------------------------------


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PADDLE_CVT_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "own" / "weights"
    monkeypatch.delenv("PADDLE_CVT_HOME")
    assert cache_folder() == tmp_path / "xdg" / "paddle_cvt" / "weights"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")  # to be ignored, says the XDG specification
    assert cache_folder() == tmp_path / "home" / ".cache" / "paddle_cvt" / "weights"


def test_a_cache_in_the_home_of_nobody_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE_CVT_HOME", "~no_such_user/x")
    with pytest.raises(UsageError, match="PADDLE_CVT_HOME must be a folder; got '~no_such_user/x'"):
        cache_folder()


def test_a_mirror_replaces_huggingface_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, other = require_source("convit_tiny.fb_in1k"), require_source("convit_tiny.mindcv")
    assert address(hub) == hub.url
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert address(hub) == hub.url.replace("huggingface.co", "mirror.example")
    assert address(other) == other.url


@pytest.mark.parametrize("mirror", ["http://mirror.example", "mirror.example", "file:///mirror", "https://a..b"])
def test_a_mirror_without_https_is_refused(monkeypatch: pytest.MonkeyPatch, mirror: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", mirror)
    with pytest.raises(UsageError, match="HF_ENDPOINT must be an https address"):
        address(require_source("convit_tiny.fb_in1k"))


def test_weights_are_fetched_from_the_mirror(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url("/mirror"))
    assert fetch_from_hub(tmp_path).read_bytes() == CONTENT
    assert server.requests[0][0] == "/mirror/timm/convit_tiny.fb_in1k/resolve/main/model.safetensors"


def fetch_from_hub(folder: Path) -> Path:
    url = "https://huggingface.co/timm/convit_tiny.fb_in1k/resolve/main/model.safetensors"
    return cached(source_at(url), cache_dir=folder, patience=QUICK)


def test_a_file_comes_before_a_name_and_a_name_before_a_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("convit_tiny.mindcv").write_bytes(b"own")
    assert find_weights("convit_tiny.mindcv", canonical_name=canonical_name) == (Path("convit_tiny.mindcv"), None)
    source = replace(require_source("convit_small.mindcv"), sha256=DIGEST)
    monkeypatch.setattr(download, "find_source", lambda text: source)
    monkeypatch.setattr(download, "require_source", lambda text: source)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / source.file).write_bytes(CONTENT)
    found = find_weights("convit_small.mindcv", canonical_name=canonical_name, cache_dir=tmp_path / "cache")
    assert found == (tmp_path / "cache" / source.file, source)


@pytest.mark.parametrize("text", ["vit_b32_224", "vit_b32_224.mindcv"])
def test_a_published_name_may_have_its_model_in_any_spelling(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "cached", lambda source, cache_dir: Path(source.name))
    _, found = find_weights(text, canonical_name=canonical_name)
    assert found is require_source(text.replace("b32", "b_32"))


@pytest.mark.parametrize("text", ["weights.safetensors", "folder/convit_tiny", "x" * 5000 + ".pth"])
def test_what_looks_like_a_path_is_a_missing_file(text: str) -> None:
    with pytest.raises(MissingInputError, match="no such file"):
        find_weights(text, canonical_name=canonical_name)


def test_what_looks_like_a_name_is_an_unknown_name() -> None:
    with pytest.raises(UsageError, match=r"nearest: convit_tiny"):
        find_weights("convit_tinny", canonical_name=canonical_name)


def test_neither_module_imports_paddle() -> None:
    code = "import sys, util.weights.download, util.weights.sources; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
