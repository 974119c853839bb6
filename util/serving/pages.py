"""The page at `/`: files that are read once, with headers that keep it to this server."""

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

FOLDER = Path(__file__).with_name("page")
FILES = {  # path -> file, Content-Type
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/words.js": ("words.js", "text/javascript; charset=utf-8"),
    "/attention.js": ("attention.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    # `blob:` are the images that the user chose, `data:` the empty icon; forms are sent by page.js alone
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, and asked for by ETag: after an update no old script meets the new page
}


def create_router() -> APIRouter:
    """Returns the routes of the page's files, for GET and HEAD. They are no part of the OpenAPI document."""
    router = APIRouter()
    for path, (name, kind) in FILES.items():
        _add(router, path, (FOLDER / name).read_bytes(), kind)
    return router


def _add(router: APIRouter, path: str, content: bytes, kind: str) -> None:
    headers = HEADERS | {"ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}

    @router.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)
    async def file(request: Request) -> Response:
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if headers["ETag"] in known:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=kind)
