"""Answers of `/v1` as JSON, and what the OpenAPI document says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import Response
from pydantic import BaseModel, Field

from greffon.evaluation.table import THRESHOLD
from greffon.serving.looking import MOST_PICTURES
from greffon.serving.refusals import to_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from greffon.serving.models import Served
    from greffon.serving.work import Answer


class NearPicture(BaseModel):
    """A picture that the model learned from."""

    labels: list[str]
    similarity: Annotated[float, Field(description="cosine between what the model sees in both, -1 to 1")]
    thumbnail: Annotated[str, Field(description="a small JPEG file as a data URL")]


class Explanation(BaseModel):
    """Why an answer."""

    label: Annotated[str, Field(description="the class that it is about")]
    map: Annotated[
        list[list[float]] | None,
        Field(description="rows of the square that the model saw: how much each place speaks for the class, 0 to 1"),
    ]
    nearest: Annotated[list[NearPicture], Field(description="the most alike ones first")]


class Named(BaseModel):
    """What a model says of one picture."""

    name: Annotated[str | None, Field(description="what the client called the picture")]
    label: Annotated[str | None, Field(description="the class with the highest probability")]
    probability: Annotated[float | None, Field(description="that probability, 0 to 1")]
    sure: Annotated[bool | None, Field(description="whether it is as sure as the model's min_confidence asks")]
    scores: Annotated[dict[str, float], Field(description="probability by class, the highest first")]
    labels: Annotated[list[str], Field(description="the classes the picture has: one, or several where it may")]
    error: Annotated[str | None, Field(description="why the picture could not be read")]
    explanation: Annotated[Explanation | None, Field(description="where explain=true asked for it")] = None


class Predictions(BaseModel):
    """The answer to `/v1/predict`, pictures in the order they came."""

    model: str
    version: Annotated[str, Field(description="changes when the model does")]
    request_id: str
    min_confidence: float | None
    predictions: list[Named]


class Described(BaseModel):
    """One model of the service."""

    name: str
    version: str
    classes: list[str]
    input_size: Annotated[int, Field(description="side of the square that the model sees, in pixels")]
    several_labels: bool
    min_confidence: float | None
    resize: Annotated[str, Field(description="how a picture becomes that square: crop, stretch or pad")]
    grad_cam: Annotated[bool, Field(description="whether the model can show where it looked")]
    neighbours: Annotated[bool, Field(description="whether it can show pictures that it learned from")]
    notes: list[str]


class Limits(BaseModel):
    """What one request may hold."""

    body: Annotated[int, Field(description="bytes")]
    pixels: Annotated[int, Field(description="width times height of one picture")]
    pictures: int
    seconds: float
    explained: Annotated[int, Field(description="pictures, where explain=true")] = MOST_PICTURES


class ModelList(BaseModel):
    """What is served; the first is the one that requests without a model get."""

    models: list[Described]
    limits: Limits


class Error(BaseModel):
    """Why a request was refused."""

    error: str
    request_id: str


class Json(Response):
    """JSON in ASCII."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return to_json(content)


def described(served: Served) -> dict[str, Any]:
    """A model, as `Described` has it."""
    model = served.model
    return {
        "name": model.name,
        "version": model.version,
        "classes": list(model.names),
        "input_size": model.input_size,
        "several_labels": model.several_labels,
        "min_confidence": model.min_confidence,
        "resize": model.resize,
        "grad_cam": model.looker.has_map,
        "neighbours": model.looker.has_nearest,
        "notes": list(model.notes),
    }


def predictions(
    served: Served, names: Sequence[str | None], answers: Sequence[Answer], top: int | None, request_id: str
) -> dict[str, Any]:
    """Answers, as `Predictions` has them."""
    return {
        "model": served.model.name,
        "version": served.model.version,
        "request_id": request_id,
        "min_confidence": served.model.min_confidence,
        "predictions": [_named(served, name, answer, top) for name, answer in zip(names, answers, strict=True)],
    }


def timing(answers: Sequence[Answer]) -> Mapping[str, str]:
    """The header `Server-Timing`, in milliseconds: decoding of all pictures, the longest wait, the longest batch."""
    rows = [answer.row for answer in answers if answer.row is not None]
    if not rows:
        return {}
    values = {
        "decode": sum(answer.decoding for answer in answers),
        "queue": max(row.queued for row in rows),
        "engine": max(row.seconds for row in rows),
    }
    return {"server-timing": ", ".join(f"{name};dur={1000 * value:.2f}" for name, value in values.items())}


def noted(answers: Sequence[Answer], model: str) -> dict[str, Any]:
    """What the log says of them."""
    rows = [answer.row for answer in answers if answer.row is not None]
    fields: dict[str, Any] = {"model": model, "pictures": len(answers), "unreadable": len(answers) - len(rows)}
    if rows:
        fields["decode_ms"] = round(1000 * sum(answer.decoding for answer in answers), 2)
        fields["queue_ms"] = round(1000 * max(row.queued for row in rows), 2)
        fields["engine_ms"] = round(1000 * max(row.seconds for row in rows), 2)
        fields["batch"] = max(row.batch for row in rows)
    return fields


def _named(served: Served, name: str | None, answer: Answer, top: int | None) -> dict[str, Any]:
    if answer.row is None:
        empty = dict.fromkeys(("label", "probability", "sure"))
        return {"name": name, **empty, "scores": {}, "labels": [], "error": answer.error}
    model, row = served.model, answer.row.probabilities
    order = np.argsort(-row, kind="stable")
    best = model.names[order[0]]
    labels = [best]
    if model.several_labels:
        labels = [model.names[column] for column in order if row[column] >= THRESHOLD]
    return {
        "name": name,
        "label": best,
        "probability": float(row[order[0]]),
        "sure": model.is_sure(row),
        "scores": {model.names[column]: float(row[column]) for column in order[:top]},
        "labels": labels,
        "error": None,
        **({} if answer.look is None else {"explanation": answer.look.to_dict()}),
    }
