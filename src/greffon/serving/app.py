"""The service as one ASGI application: routes, what they call, and what is said where something does not fit."""

# Annotations are evaluated here: FastAPI makes the routes and their description of them.

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

import greffon
from greffon.errors import GreffonError
from greffon.serving import answers as v1
from greffon.serving import inference as v2
from greffon.serving.bodies import JsonBody, parsed, read_pictures
from greffon.serving.guard import Guard
from greffon.serving.looking import MOST_PICTURES
from greffon.serving.metrics import CONTENT_TYPE, Metrics
from greffon.serving.model import ServedModel
from greffon.serving.models import Models, Served
from greffon.serving.page import page_router
from greffon.serving.refusals import RefusedError
from greffon.serving.settings import Settings
from greffon.serving.work import Answer, Work

_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": v1.Error, "description": "the request does not fit"},
    401: {"model": v1.Error, "description": "no key, or a wrong one"},
    403: {"model": v1.Error, "description": "without keys, only this machine may ask"},
    404: {"model": v1.Error, "description": "no such model or version"},
    408: {"model": v1.Error, "description": "the body arrived too slowly"},
    413: {"model": v1.Error, "description": "too many bytes or pictures"},
    415: {"model": v1.Error, "description": "another kind of body"},
    422: {"model": v1.Error, "description": "no picture could be read"},
    429: {"model": v1.Error, "description": "busy: come again after the seconds in Retry-After"},
}
_NAME = Annotated[str, InPath(description="of a model, see /v1/models")]


class Service:
    """All that answers requests.

    Args:
        runs: folder by model name.
        settings: the limits.
        load: makes the model of a name and a folder.

    Attributes:
        app: the ASGI application; its lifespan loads the models.
        api: the FastAPI application inside.
    """

    def __init__(
        self,
        runs: Mapping[str, Path],
        settings: Settings | None = None,
        load: Callable[[str, Path], ServedModel] = ServedModel.load,
    ) -> None:
        self.settings = settings or Settings()
        self.metrics = Metrics()
        self.work = Work(self.settings, self.metrics)
        self.models = Models(runs, self.settings, self.metrics, load)
        self.stopping = False
        self.api = FastAPI(
            title="Greffon",
            version=greffon.__version__,
            description="Names what is in pictures.",
            docs_url=None,  # their pages fetch scripts from elsewhere
            redoc_url=None,
            lifespan=self._lifespan,
            default_response_class=v1.Json,
        )
        self.api.add_exception_handler(RefusedError, _refuse)
        self.api.add_exception_handler(HTTPException, _refuse_http)
        self.api.add_exception_handler(RequestValidationError, _refuse_invalid)
        for router in (_v1_router(self), _v2_router(self), page_router()):
            self.api.include_router(router)
        self.app = Guard(self.api, self.settings, self.metrics, self.work)

    def find(self, name: str | None, version: str | None = None) -> Served:
        """What answers under a name.

        Raises:
            RefusedError: nothing does.
        """
        served = self.models.get(name or self.models.default, version)
        if served is None:
            known = ", ".join(f"{one.model.name} (version {one.model.version})" for one in self.models.all())
            raise RefusedError(404, f"there is no such model or version; there is {known}", reason="unknown")
        return served

    async def answers(
        self, request: Request, served: Served, pictures: Sequence[bytes | np.ndarray], *, explain: bool = False
    ) -> list[Answer]:
        """Have pictures named, within the time that a request may take.

        Raises:
            RefusedError: no room in the queue, or it took longer.
        """
        try:
            async with asyncio.timeout(self.settings.seconds):
                found = await self.work.answers(served, pictures, explain=explain)
        except TimeoutError:
            raise RefusedError(
                429,
                f"the answer would take longer than {self.settings.seconds:g} seconds; come again later, with fewer "
                "pictures",
                reason="timeout",
                retry_after=self.work.retry_after(),
            ) from None
        request.state.log.update(v1.noted(found, served.model.name))
        return found

    @asynccontextmanager
    async def _lifespan(self, api: FastAPI) -> AsyncIterator[None]:
        await self.models.load()
        yield
        self.models.close()
        self.work.close()


def _v1_router(service: Service) -> APIRouter:
    router = APIRouter(tags=["pictures"])
    settings = service.settings
    limits = {name: getattr(settings, name) for name in v1.Limits.model_fields if name != "explained"}
    limits["explained"] = MOST_PICTURES

    @router.get("/v1/models", response_model=v1.ModelList, responses=_some(401, 403))
    async def models() -> Response:
        """What is served, and what a request may hold."""
        return v1.Json({"models": [v1.described(one) for one in service.models.all()], "limits": limits})

    @router.post(
        "/v1/predict",
        response_model=v1.Predictions,
        responses=_some(400, 401, 403, 404, 408, 413, 415, 422, 429),
        openapi_extra={"requestBody": {"required": True, "content": _picture_bodies()}},
    )
    async def predict(
        request: Request,
        model: Annotated[str | None, Query(description="which model; without it, the first", max_length=64)] = None,
        top: Annotated[int | None, Query(description="how many classes to name; without it, all", ge=1)] = None,
        explain: Annotated[
            bool, Query(description=f"whether to say why, of at most {MOST_PICTURES} pictures; takes as long again")
        ] = False,
    ) -> Response:
        """Name what is in pictures. One that cannot be read has an `error`; the others are named."""
        served = service.find(model)
        sent = await read_pictures(request, settings, service.work)
        if explain and len(sent) > MOST_PICTURES:
            text = f"a request that asks why may hold {MOST_PICTURES} pictures, this one holds {len(sent)}"
            raise RefusedError(413, text, reason="too many pictures")
        found = await service.answers(request, served, [one.content for one in sent], explain=explain)
        body = v1.predictions(served, [one.name for one in sent], found, top, request.state.request_id)
        if all(answer.row is None for answer in found):
            raise RefusedError(422, f"no picture could be read: {found[0].error}", reason="unreadable", extra=body)
        return v1.Json(body, headers=v1.timing(found))

    @router.post("/v1/reload", responses=_some(401, 403, 404, 409))
    async def reload(
        model: Annotated[str | None, Query(description="which model; without it, the first", max_length=64)] = None,
    ) -> dict[str, str]:
        """Put what lies in the run's folder now in the place of what answers; needs the service to have keys."""
        if not settings.keys:
            raise RefusedError(403, "a service without keys is told to reload by the signal SIGHUP", reason="key")
        served = service.find(model)
        try:
            outcome = await service.models.reload(served.model.name)
        except GreffonError as error:
            raise RefusedError(409, f"the old version goes on: {error}", reason="reload") from None
        return {"model": served.model.name, "version": service.find(model).model.version, "outcome": outcome}

    @router.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **_some(401, 403)})
    async def metrics() -> Response:
        """What the service counts, as Prometheus reads it."""
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    return router


def _v2_router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v2", tags=["Open Inference protocol"])

    @router.get("", response_model=v2.ServerMetadata, responses=_some(403))
    async def server() -> Response:
        """What the server is."""
        return v1.Json(v2.server_metadata())

    @router.get("/health/live", response_model=v2.Alive, responses=_some(403))
    async def live() -> Response:
        """Whether the process answers."""
        return v1.Json({"live": True})

    @router.get("/health/ready", response_model=v2.Ready, responses={503: {"model": v2.Ready}, **_some(403)})
    async def ready() -> Response:
        """Whether all models are loaded and the service is not about to stop."""
        is_ready = service.models.ready and not service.stopping
        return v1.Json({"ready": is_ready}, status_code=200 if is_ready else 503)

    @router.get("/models/{name}", response_model=v2.ModelMetadata, responses=_some(401, 403, 404))
    @router.get("/models/{name}/versions/{version}", response_model=v2.ModelMetadata, responses=_some(401, 403, 404))
    async def metadata(name: _NAME, version: str | None = None) -> Response:
        """What a model is, takes and gives."""
        return v1.Json(v2.model_metadata(service.find(name, version)))

    @router.get("/models/{name}/ready", response_model=v2.Ready, responses=_some(401, 403, 404))
    @router.get("/models/{name}/versions/{version}/ready", response_model=v2.Ready, responses=_some(401, 403, 404))
    async def model_ready(name: _NAME, version: str | None = None) -> Response:
        """Whether a model can be asked."""
        return v1.Json({"name": service.find(name, version).model.name, "ready": True})

    # The body is described here and parsed below: FastAPI would do it where the event loop waits.
    body = {"requestBody": {"required": True, "content": {"application/json": _inlined(v2.InferRequest)}}}
    refusals = _some(400, 401, 403, 404, 408, 413, 422, 429)
    kinds: dict[str, Any] = {"response_model": v2.InferResponse, "responses": refusals, "openapi_extra": body}

    @router.post("/models/{name}/infer", **kinds)
    @router.post("/models/{name}/versions/{version}/infer", **kinds)
    async def infer(request: Request, name: _NAME, version: str | None = None) -> Response:
        """Name what is in pictures, or in pixels of the model's own size."""
        served = service.find(name, version)
        given, pictures = await service.work.aside(
            _infer_input, await request.body(), served.model.input_size, service.settings.pictures
        )
        found = await service.answers(request, served, pictures)
        return v1.Json(v2.infer_response(served, given, found), headers=v1.timing(found))

    return router


def _infer_input(body: bytes, size: int, most: int) -> tuple[v2.InferRequest, Sequence[bytes | np.ndarray]]:
    request = parsed(v2.InferRequest, body)
    return request, v2.pictures_of(request, size, most)


def _some(*statuses: int) -> dict[int | str, dict[str, Any]]:
    conflict = {"model": v1.Error, "description": "the new version cannot be loaded"}
    return {status: _REFUSALS.get(status, conflict) for status in statuses}


def _picture_bodies() -> dict[str, Any]:
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    form = {"type": "object", "properties": {"files": files}, "required": ["files"]}
    return {"multipart/form-data": {"schema": form}, "application/json": _inlined(JsonBody)}


def _inlined(kind: Any) -> dict[str, Any]:
    """A schema with what it refers to inside: FastAPI gathers only those of bodies that it parses itself."""
    schema = kind.model_json_schema()
    parts = schema.pop("$defs", {})

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return resolved(parts[value["$ref"].rpartition("/")[2]])
            return {key: resolved(item) for key, item in value.items()}
        return [resolved(item) for item in value] if isinstance(value, list) else value

    return {"schema": resolved(schema)}


def _refused(request: Request, refusal: RefusedError, headers: Mapping[str, str] | None = None) -> Response:
    request.state.log["refused"] = refusal.reason
    body = refusal.body(request.state.request_id)
    more = {**(headers or {}), **refusal.headers()}
    return Response(body, refusal.status, headers=more, media_type="application/json")


async def _refuse(request: Request, error: Exception) -> Response:
    return _refused(request, error if isinstance(error, RefusedError) else RefusedError(400, str(error)))


async def _refuse_http(request: Request, error: Exception) -> Response:
    """What the router itself refuses: no such address, another method."""
    status = getattr(error, "status_code", 400)
    text = {404: "there is nothing at this address; /openapi.json says what there is"}.get(
        status, str(getattr(error, "detail", error))
    )
    reason = {404: "unknown", 405: "method"}.get(status, "invalid")
    return _refused(request, RefusedError(status, text, reason=reason), getattr(error, "headers", None))


async def _refuse_invalid(request: Request, error: Exception) -> Response:
    """A parameter in the address that does not fit."""
    first = error.errors()[0] if isinstance(error, RequestValidationError) else {"loc": (), "msg": str(error)}
    place = ".".join(map(str, first["loc"][1:]))
    return _refused(request, RefusedError(400, f"{place}: {first['msg']}"))
