"""The Open Inference protocol (KServe v2): its objects, and tensors to pictures and back.

A model takes either of two inputs: `picture`, BYTES of shape [n], each a picture file as base64; or `pixels`, UINT8 of
shape [n, size, size, 3], RGB pixels that were resized already. It gives `probabilities`, FP32 [n, classes], and
`label`, BYTES [n].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

import greffon
from greffon.serving.bodies import decoded_base64
from greffon.serving.refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greffon.serving.models import Served
    from greffon.serving.work import Answer

PLATFORM = "onnxruntime_onnx"
_PICTURE, _PIXELS = "picture", "pixels"
_PROBABILITIES, _LABEL = "probabilities", "label"


class InputTensor(BaseModel):
    """One input of a request."""

    name: Literal["picture", "pixels"]
    shape: list[Annotated[int, Field(ge=0, le=2**31)]]
    datatype: Literal["BYTES", "UINT8"]
    parameters: dict[str, Any] | None = None
    data: Annotated[list[Any], Field(description="base64 of picture files, or RGB values 0 to 255, flat or nested")]


class WantedOutput(BaseModel):
    """One output that is asked for."""

    name: Literal["probabilities", "label"]
    parameters: dict[str, Any] | None = None


class InferRequest(BaseModel):
    """A request to `/v2/models/{name}/infer`."""

    model_config = ConfigDict(extra="ignore")

    id: Annotated[str | None, Field(max_length=255)] = None
    parameters: dict[str, Any] | None = None
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: list[WantedOutput] | None = None


class Tensor(BaseModel):
    """The form of an input or output; -1 is any number of pictures."""

    name: str
    datatype: str
    shape: list[int]


class OutputTensor(Tensor):
    """One output."""

    data: list[Any]


class InferResponse(BaseModel):
    """The answer to an inference request."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class ModelMetadata(BaseModel):
    """What a model is, takes and gives. One of the inputs is to be given."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class ServerMetadata(BaseModel):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class Alive(BaseModel):
    """Whether the process answers."""

    live: bool


class Ready(BaseModel):
    """Whether the server, or a model, can be asked."""

    ready: bool
    name: str | None = None


def server_metadata() -> dict[str, Any]:
    """As `ServerMetadata` has it."""
    return {"name": "greffon", "version": greffon.__version__, "extensions": []}


def model_metadata(served: Served) -> dict[str, Any]:
    """As `ModelMetadata` has it."""
    model = served.model
    size, classes = model.input_size, len(model.names)
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": PLATFORM,
        "inputs": [_tensor(_PICTURE, "BYTES", [-1]), _tensor(_PIXELS, "UINT8", [-1, size, size, 3])],
        "outputs": [_tensor(_PROBABILITIES, "FP32", [-1, classes]), _tensor(_LABEL, "BYTES", [-1])],
    }


def pictures_of(request: InferRequest, size: int, most: int) -> Sequence[bytes | np.ndarray]:
    """The pictures in a request: contents of files, or arrays uint8 (size, size, 3).

    Args:
        request: with one input.
        size: side of the model's input, in pixels.
        most: pictures that a request may have.

    Raises:
        RefusedError: shape, datatype and data do not fit together, or there are too many.
    """
    tensor = request.inputs[0]
    wanted = {_PICTURE: "BYTES", _PIXELS: "UINT8"}[tensor.name]
    if tensor.datatype != wanted:
        raise RefusedError(400, f"the datatype of {tensor.name} must be {wanted}, got {tensor.datatype}")
    rest = [] if tensor.name == _PICTURE else [size, size, 3]
    if len(tensor.shape) != 1 + len(rest) or tensor.shape[1:] != rest or tensor.shape[0] < 1:
        form = ", ".join(["n", *map(str, rest)])
        raise RefusedError(
            400, f"the shape of {tensor.name} must be [{form}] with n at least 1, got {tensor.shape[:8]}"
        )
    count = tensor.shape[0]
    if count > most:
        raise RefusedError(
            413, f"a request may hold {most} pictures, this one holds {count}", reason="too many pictures"
        )
    return _files(tensor.data, count) if tensor.name == _PICTURE else _arrays(tensor.data, count, size)


def infer_response(served: Served, request: InferRequest, answers: Sequence[Answer]) -> dict[str, Any]:
    """As `InferResponse` has it.

    Raises:
        RefusedError: a picture could not be read: the protocol has no place for an answer without one.
    """
    for place, answer in enumerate(answers):
        if answer.row is None:
            raise RefusedError(422, f"picture {place} cannot be read: {answer.error}", reason="unreadable")
    rows = np.stack([answer.row.probabilities for answer in answers if answer.row is not None])
    names = served.model.names
    given = {
        _PROBABILITIES: _tensor(_PROBABILITIES, "FP32", list(rows.shape)) | {"data": rows.ravel().tolist()},
        _LABEL: _tensor(_LABEL, "BYTES", [len(rows)]) | {"data": [names[column] for column in rows.argmax(axis=1)]},
    }
    wanted = dict.fromkeys(one.name for one in request.outputs or ()) or given
    response = {"model_name": served.model.name, "model_version": served.model.version}
    if request.id is not None:
        response["id"] = request.id
    return response | {"outputs": [given[name] for name in wanted]}


def _files(data: list[Any], count: int) -> list[bytes]:
    if len(data) != count or not all(isinstance(one, str) for one in data):
        raise RefusedError(400, f"the data of {_PICTURE} must be {count} texts of base64, as its shape says")
    return [decoded_base64(one, f"picture {place}") for place, one in enumerate(data)]


def _arrays(data: list[Any], count: int, size: int) -> list[np.ndarray]:
    try:
        values = np.array(data)
    except (ValueError, OverflowError, TypeError, MemoryError):
        values = np.array(None)
    expected = (count, size, size, 3)
    if values.dtype.kind not in "iu" or values.shape not in (expected, (int(np.prod(expected)),)):
        raise RefusedError(
            400, f"the data of {_PIXELS} must be whole numbers, flat or nested, as many as {expected} has"
        )
    if values.min() < 0 or values.max() > 255:
        raise RefusedError(400, f"the data of {_PIXELS} must be RGB values 0 to 255")
    return list(values.astype(np.uint8).reshape(expected))


def _tensor(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}
