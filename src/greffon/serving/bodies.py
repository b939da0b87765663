"""What a request holds: multipart files, or JSON with base64, as a list of pictures."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from greffon.serving.refusals import RefusedError

if TYPE_CHECKING:
    from fastapi import Request

    from greffon.serving.settings import Settings
    from greffon.serving.work import Work

_LONG = 64 * 1024  # bytes of JSON that are parsed aside
_LONGEST_NAME = 255


@dataclass(frozen=True)
class Sent:
    """One picture of a request.

    Attributes:
        name: what the client calls it; None where it does not.
        content: of its file.
    """

    name: str | None
    content: bytes


class JsonPicture(BaseModel):
    """One picture as base64."""

    model_config = ConfigDict(extra="forbid")

    data: Annotated[str, Field(description="the picture file as base64; a data URL is taken too")]
    name: Annotated[str | None, Field(description="what to call it in the answer", max_length=_LONGEST_NAME)] = None


class JsonBody(BaseModel):
    """Pictures as JSON."""

    model_config = ConfigDict(extra="forbid")

    pictures: Annotated[list[JsonPicture], Field(min_length=1)]


class _InMemory(MultiPartParser):
    """Files stay in memory, whose use is bounded before: pictures are never written to a disk."""

    spool_max_size = 0  # never


async def read_pictures(request: Request, settings: Settings, work: Work) -> list[Sent]:
    """The pictures of a request to `/v1/predict`.

    Raises:
        RefusedError: it is neither multipart nor JSON, is malformed, or holds no picture or too many.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        sent = await _multipart(request, settings)
    elif kind == "application/json":
        body = await request.body()
        sent = await (work.aside(_json, body, settings) if len(body) > _LONG else _later(body, settings))
    else:
        raise RefusedError(
            415,
            "a request must be multipart/form-data with the pictures as files, or application/json as "
            f'{{"pictures": [{{"data": "BASE64"}}]}}. Got {kind[:80] or "no content type"!r}',
        )
    if not sent:
        raise RefusedError(400, "the request holds no picture: send each as a file in a field of its own")
    return sent


def parsed(kind: type[BaseModel], body: bytes) -> Any:
    """JSON as one of the service's objects.

    Raises:
        RefusedError: it is no JSON, or not of that form; the sentence says where and how.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        text = f"{place}: {first['msg']}" if place else first["msg"]
        raise RefusedError(400, f"the body does not fit: {text[:300]}") from None


def check_count(pictures: int, settings: Settings) -> None:
    """Refuse more pictures than one request may have.

    Raises:
        RefusedError: it has.
    """
    if pictures > settings.pictures:
        raise RefusedError(
            413,
            f"a request may hold {settings.pictures} pictures; this one holds more: send several requests",
            reason="too many pictures",
        )


def decoded_base64(text: str, what: str) -> bytes:
    """The bytes of base64, with or without line breaks, as it is or in a data URL.

    Raises:
        RefusedError: it is none.
    """
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise RefusedError(400, f"{what} is a data URL without base64")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(400, f"{what} is no base64: {error}") from None


async def _later(body: bytes, settings: Settings) -> list[Sent]:
    return _json(body, settings)


def _json(body: bytes, settings: Settings) -> list[Sent]:
    given: JsonBody = parsed(JsonBody, body)
    check_count(len(given.pictures), settings)
    return [
        Sent(one.name, decoded_base64(one.data, f"pictures.{place}.data")) for place, one in enumerate(given.pictures)
    ]


async def _multipart(request: Request, settings: Settings) -> list[Sent]:
    parser = _InMemory(request.headers, request.stream(), max_files=settings.pictures, max_fields=16)
    try:
        form = await parser.parse()
    except (MultiPartException, FormParserError) as error:
        text = str(getattr(error, "message", error))
        if text.startswith("Too many files"):
            check_count(settings.pictures + 1, settings)
        raise RefusedError(400, f"the multipart body does not fit: {text[:300]}") from None
    except (ValueError, LookupError, AttributeError, TypeError, AssertionError) as error:
        # The parser stumbles over some headers that it has no sentence for.
        raise RefusedError(400, f"the multipart body does not fit: {type(error).__name__}") from None
    sent = []
    try:
        for _, value in form.multi_items():
            if isinstance(value, UploadFile):
                name = (value.filename or "")[:_LONGEST_NAME] or None
                sent.append(Sent(name, value.file.read()))
    finally:
        await form.close()
    return sent
