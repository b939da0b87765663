"""What a network sees in pictures: one pass of the frozen part, kept in the store, from which likeness is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from greffon.training.samples import samples_of

if TYPE_CHECKING:
    import keras

    from greffon.pictures.catalog import Catalog
    from greffon.pictures.resize import ResizeRule
    from greffon.training.progress import Reporter
    from greffon.training.start import Start

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Network:
    """A backbone that is ready to look.

    Attributes:
        model: with its preprocessing, and a head that is not used.
        resize: the rule of its preprocessing.
        notes: what the user should know of the weights.
    """

    model: keras.Model
    resize: ResizeRule
    notes: tuple[str, ...]


def build_network(start: Start, size: int) -> Network:
    """Build a backbone and restore its weights.

    Args:
        start: weights that are there.
        size: side of the input, in pixels.
    """
    from greffon.backbone.graft import graft
    from greffon.backbone.resnet import build_resnet
    from greffon.recipe import Head
    from greffon.weights.sets import usual_preprocessing

    told: list[str] = []
    backbone = build_resnet(50, start.weights, input_shape=(size, size, 3), tell=told.append)
    restored = backbone.greffon_weights
    record = restored.preprocessing or usual_preprocessing(restored.variant)
    notes = () if start.run else (*told, *(f"weights: {note}" for note in restored.notes))
    return Network(graft(backbone, 2, Head(), preprocessing=record), record.resize, notes)


def features_of(network: Network, catalog: Catalog, size: int, rule: ResizeRule, reporter: Reporter) -> Array:
    """Averaged features of all usable pictures, test/ too.

    Returns:
        float32 (pictures, channels), in the order of `catalog.ok`.

    Raises:
        GoneBadError: pictures cannot be read any more.
    """
    from greffon.frozen.trunk import DoesNotFitFloat16

    try:
        return _features_of(network, catalog, size, rule, reporter, "float16")
    except DoesNotFitFloat16:
        return _features_of(network, catalog, size, rule, reporter, "float32")


def _features_of(
    network: Network, catalog: Catalog, size: int, rule: ResizeRule, reporter: Reporter, dtype: str
) -> Array:
    from greffon.backbone.freeze import freeze
    from greffon.frozen.activations import Activations
    from greffon.frozen.cut import find_cut
    from greffon.frozen.even import at_even_positions
    from greffon.frozen.graph import flatten
    from greffon.frozen.store import ActivationStore
    from greffon.frozen.trunk import Trunk

    model = network.model
    freeze(model, "none")
    cut = find_cut(model, graph=at_even_positions(flatten(model)))
    usable = replace(catalog, frame=catalog.ok.with_columns(split=pl.lit("train")))
    samples = samples_of(usable, size, rule)
    trunk = Trunk(cut, [samples.shape], store=ActivationStore(), dtype=dtype, label=f"check, {cut.where}, {dtype}")
    activations = Activations(trunk, samples.keys, samples.load)
    with reporter.bar("frozen part", total=len(samples)) as advance:
        activations.fill(advance)
    return np.asarray(activations.all()[0], dtype=np.float32).reshape(len(samples), -1)
