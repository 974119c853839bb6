"""The server's routes: images to classes, health, metrics, and what is known about the model."""

import asyncio
import json
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from util.prediction import TOP_K, top_k
from util.serving import inference_routes, pages
from util.serving.api_key import ApiKey, KeyAsked
from util.serving.attention import attention_answers
from util.serving.batcher import RefusedError
from util.serving.classifier import Classifier
from util.serving.documents import CLASSIFY, ERRORS, Answer, Health, Model
from util.serving.metrics import Metrics
from util.serving.observed import Journal, Observed, error_answer, request_id
from util.serving.requests import RequestError, image_files, read_body

MAX_TOP_K = 1000


def create_app(classifier: Classifier, journal: Journal, *, key: ApiKey) -> FastAPI:
    """Returns the application: /v1, /v2, /healthz, /readyz, /metrics, their description, and the page at /."""
    app = FastAPI(
        title="Image classification",
        version=str(classifier.manifest.version),
        description=f"{classifier.manifest.model}, {classifier.manifest.num_classes} classes",
        lifespan=classifier.running,
        redoc_url=None,
        redirect_slashes=False,  # the address in a redirection would be what the client calls this host
        docs_url=None,  # its page loads scripts of others
    )
    app.include_router(_health(classifier, journal.metrics))
    app.include_router(_classes(classifier))
    app.include_router(inference_routes.create_router(classifier))
    app.include_router(pages.create_router())

    @app.exception_handler(RequestError)
    async def bad(request: Request, error: RequestError) -> Response:
        return error_answer(request, error.status, error.reason)

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        return error_answer(request, 503, error.reason, retry_after=error.retry_after)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return error_answer(request, 422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        answer = error_answer(request, error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    app.add_middleware(KeyAsked, key=key)
    app.add_middleware(Observed, journal=journal)
    return app


def _health(classifier: Classifier, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/healthz", response_model=Health, summary="Whether the process answers")
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    @router.get("/readyz", response_model=Health, responses={503: {"model": Health}}, summary="Whether images are")
    async def readyz() -> Response:
        if classifier.is_ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "stopping" if classifier.is_draining else "loading"}, 503, {"Retry-After": "1"})

    @router.get(
        "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}, summary="For Prometheus"
    )
    async def figures() -> Response:
        metrics.held.set(classifier.batcher.held)
        text, kind = metrics.text()
        return Response(text, media_type=kind)

    return router


def _classes(classifier: Classifier) -> APIRouter:
    router = APIRouter(tags=["classification"])
    manifest = classifier.manifest

    @router.post("/v1/classify", response_model=Answer, responses=ERRORS, openapi_extra=CLASSIFY, summary="Classify")
    async def classify(
        request: Request,
        number: Annotated[int, Query(alias="top_k", ge=1, le=MAX_TOP_K, description="classes of an image")] = TOP_K,
        attention: Annotated[bool, Query(description="also where in each image the model looked")] = False,
    ) -> Response:
        deadline = asyncio.get_running_loop().time() + classifier.limits.seconds
        if attention and manifest.attention is None:
            raise RequestError(422, "query.attention: this model has no map; it was exported without --attention")
        body = await read_body(request, max_bytes=classifier.limits.max_bytes, seconds=classifier.limits.seconds)
        files = await image_files(request.headers, body, max_images=classifier.limits.max_images)
        computed = await classifier.compute(request, [*files], deadline)
        names = [f"image {i}" for i in range(len(files))]
        predictions = top_k(computed.logits, names, classifier.class_names, k=number, output=manifest.output)
        answers: list[dict[str, Any]] = [
            {name: p[name] for name in ("class_ids", "scores", "label_names")} for p in predictions
        ]
        if attention:
            for one, found in zip(answers, attention_answers(computed), strict=True):
                one["attention"] = found
        answer = {"predictions": answers, "request_id": request_id(request.scope)}
        return Response(json.dumps(answer, ensure_ascii=False), media_type="application/json")

    @router.get("/v1/model", response_model=Model, summary="What the model is")
    async def model() -> Response:
        return JSONResponse({
            "model": manifest.model, "engine": classifier.engine, "num_classes": manifest.num_classes,
            "class_names": list(classifier.class_names), "preprocess": manifest.preprocess,
            "card": asdict(manifest.card), "versions": manifest.versions, "sha256": manifest.sha256,
            "attention": manifest.attention is not None,
        })  # fmt: skip

    return router
