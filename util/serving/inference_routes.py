"""The routes of the Open Inference Protocol, `/v2/...`, on the same engines as `/v1/classify`."""

import asyncio
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from util.serving.classifier import Classifier
from util.serving.documents import ERRORS, INFER
from util.serving.inference_protocol import (
    ATTENTION,
    EXTENSIONS,
    FILES,
    LOGITS,
    VERSION,
    answer,
    metadata,
    read_request,
)
from util.serving.requests import RequestError, read_body


def create_router(classifier: Classifier) -> APIRouter:
    """Returns the routes: health, metadata of the server and of both models, inference."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
    manifest = classifier.manifest
    name, shape = manifest.model, classifier.image_shape

    def known(model: str, version: str) -> bool:
        """Whether the model takes files; an unknown one is a 404."""
        if model not in (name, name + FILES) or version != VERSION:
            raise RequestError(404, f"there is no such model; there are {name} and {name + FILES}, version {VERSION}")
        return model.endswith(FILES)

    @router.get("", summary="The server")
    async def server() -> dict[str, Any]:
        return {"name": "paddle_cvt", "version": str(manifest.version), "extensions": EXTENSIONS}

    @router.get("/health/live", summary="Whether the process answers")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready", summary="Whether images are answered")
    async def ready() -> Response:
        return JSONResponse({"ready": classifier.is_ready}, 200 if classifier.is_ready else 503)

    def readiness(model: str, version: str) -> Response:
        known(model, version)
        return JSONResponse({"name": model, "ready": classifier.is_ready}, 200 if classifier.is_ready else 503)

    def described(model: str, version: str) -> dict[str, Any]:
        takes_files = known(model, version)
        return metadata(
            name,
            image_shape=shape,
            num_classes=manifest.num_classes,
            takes_files=takes_files,
            attention=manifest.attention,
        )

    async def inferred(request: Request, model: str, version: str) -> Response:
        deadline = asyncio.get_running_loop().time() + classifier.limits.seconds
        takes_files = known(model, version)
        body = await read_body(request, max_bytes=classifier.limits.max_bytes, seconds=classifier.limits.seconds)
        asked = await asyncio.to_thread(
            read_request,
            request.headers,
            body,
            image_shape=shape,
            takes_files=takes_files,
            max_images=classifier.limits.max_images,
            has_attention=manifest.attention is not None,
        )
        images: list[bytes | np.ndarray] = [*(asked.files or []), *(asked.images or [])]
        computed = await classifier.compute(request, images, deadline)
        arrays = {LOGITS: computed.logits}
        if computed.attention is not None:
            arrays[ATTENTION] = computed.attention
        content, headers = await asyncio.to_thread(answer, asked, model, arrays, classifier.class_names)
        return Response(content, headers=headers)

    # the version is a part of the path, which may be left out; a default would make it a part of the query
    @router.get("/models/{model}/ready", responses=ERRORS, summary="Whether a model is ready")
    async def model_ready(model: str) -> Response:
        return readiness(model, VERSION)

    @router.get("/models/{model}/versions/{version}/ready", responses=ERRORS, summary="Whether a version is ready")
    async def version_ready(model: str, version: str) -> Response:
        return readiness(model, version)

    @router.get("/models/{model}", responses=ERRORS, summary="What a model takes and returns")
    async def model_metadata(model: str) -> dict[str, Any]:
        return described(model, VERSION)

    @router.get("/models/{model}/versions/{version}", responses=ERRORS, summary="What a version takes and returns")
    async def version_metadata(model: str, version: str) -> dict[str, Any]:
        return described(model, version)

    @router.post(
        "/models/{model}/infer", responses=ERRORS, openapi_extra=INFER, summary="Logits of images, and their maps"
    )
    async def infer(request: Request, model: str) -> Response:
        return await inferred(request, model, VERSION)

    @router.post("/models/{model}/versions/{version}/infer", responses=ERRORS, openapi_extra=INFER, summary="The same")
    async def infer_version(request: Request, model: str, version: str) -> Response:
        return await inferred(request, model, version)

    return router
