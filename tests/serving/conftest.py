"""An export whose classes are told apart, and a server of it for tests that leave it as it is."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
import pytest

from models import create_model, model_defaults
from models.attention_maps import Attended
from models.deploy import deployed
from tests.serving.browser import Browser, missing
from tests.serving.page import DESKTOP, Page
from tests.serving.served import Serving
from util.data.preprocessing import resolve_preprocessing
from util.deploy.export import export
from util.deploy.manifest import Card, Manifest
from util.options import PreprocessOptions

NAMES = ("cat", "dog", "鸟", "a fish, of the sea", "emu", "fox", "gnu")
KEY = "s3cret-of-the-test"


def write_export(folder: Path, *, attention: bool) -> Path:
    paddle.seed(0)
    model = create_model("cvt_nano_32x32", num_classes=len(NAMES))
    weight = 0.1 * np.random.default_rng(0).standard_normal((64, len(NAMES)))  # scores that are far from 0 and 1
    model.head.weight.set_value(weight.astype(np.float32))
    model.eval()
    preprocess = resolve_preprocessing(PreprocessOptions(), model_defaults("cvt_nano_32x32"))
    manifest = Manifest(
        model="cvt_nano_32x32", input_shape=(None, *preprocess.input_size), input_dtype="float32",
        num_classes=len(NAMES), class_names=NAMES, preprocess=preprocess.to_plain(), sha256={}, versions={},
        card=Card(source="a test", licence="MIT"),
    )  # fmt: skip
    export(
        model, manifest, folder, threads=1, sizes=[(32, 32)], form=deployed(model, attention=attention),
        attended=Attended(model) if attention else None, onnx=True,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("export"), attention=False)


@pytest.fixture(scope="session")
def server(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(exported, tmp_path_factory.mktemp("server"), "--engine", "onnxruntime") as found:
        yield found.wait_ready()


@pytest.fixture(scope="session")
def locked(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server that asks for KEY."""
    with Serving(
        exported, tmp_path_factory.mktemp("locked"), "--engine", "onnxruntime", PADDLE_CVT_API_KEY=KEY
    ) as found:
        yield found.wait_ready()


@pytest.fixture(scope="session")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if missing():
        pytest.skip(missing())
    with Browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


def opened(browser: Browser, server: Serving) -> Iterator[Page]:
    browser.resize(*DESKTOP)
    browser.prefer("light")
    browser.devtools("Storage.clearDataForOrigin", origin=f"http://127.0.0.1:{server.port}", storageTypes="all")
    page = Page(browser, server)
    page.open()
    yield page
    page.close()


@pytest.fixture
def page(window: Browser, server: Serving) -> Iterator[Page]:
    yield from opened(window, server)


@pytest.fixture
def locked_page(window: Browser, locked: Serving) -> Iterator[Page]:
    yield from opened(window, locked)
