"""The page at `/`: three files, sent with headers that keep it from asking anything of anybody else."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request, Response

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": CSP,
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-cache",
}
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/words.js": ("words.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def page_router() -> APIRouter:
    """The page's routes; its files are read once."""
    router = APIRouter(include_in_schema=False)
    for path, (name, kind) in _FILES.items():
        content = files("greffon.serving").joinpath("page", name).read_bytes()
        router.add_api_route(path, _sender(content, kind), methods=["GET", "HEAD"], name=name)
    return router


def _sender(content: bytes, kind: str) -> Any:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'

    async def send(request: Request) -> Response:
        headers = {**_HEADERS, "etag": tag}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    return send
