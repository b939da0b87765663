"""What a run's record says, as the page shows it: stages with their freeze tables and proofs, times, how to repeat it.

Records of older versions lack some of this, and those of newer ones hold more: what is not there is not shown.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greffon.bundle.commands import command_line, data_words
from greffon.errors import GreffonError
from greffon.reporting.page import public

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import keras

    from greffon.bundle.read import Bundle
    from greffon.evaluation.measures import Measures
    from greffon.recipe import Stage

_NOT_METRICS = ("stage", "epoch")


@dataclass(frozen=True)
class GroupFacts:
    """One line of a freeze table: a group of the backbone, or the head."""

    name: str
    layers: int
    parameters: int
    trainable: int


@dataclass(frozen=True)
class StageFacts:
    """What a stage did.

    Attributes:
        name: of the stage.
        trains: what trained, in one line.
        groups: its freeze table; empty where the model cannot be opened.
        proof: of freezing, as a sentence; "" where there is none.
        holds: whether it does; None where there is none.
        digest: of all frozen tensors together.
        history: one row per epoch.
        best: the epoch with the least validation loss, or None.
        remarks: what else is to be said, one sentence each.
        rates: learning rate and loss of every step of a range test; empty where there was none.
    """

    name: str
    trains: str
    groups: tuple[GroupFacts, ...]
    proof: str
    holds: bool | None
    digest: str
    history: tuple[dict[str, Any], ...]
    best: int | None
    remarks: tuple[str, ...]
    rates: tuple[tuple[float, float], ...] = ()

    @property
    def metrics(self) -> list[str]:
        """The columns of the history that hold something."""
        names = dict.fromkeys(name for row in self.history for name in row if name not in _NOT_METRICS)
        return [name for name in names if any(number(row.get(name)) is not None for row in self.history)]

    def curves(self) -> dict[str, dict[str, list[float | None]]]:
        """For every loss and metric its lines, by their names; none where there was one epoch alone."""
        if len(self.history) < 2:
            return {}
        bare = dict.fromkeys(name.removeprefix("val_") for name in self.metrics if name != "learning_rate")
        return {
            what: {
                name: [number(row.get(name)) for row in self.history]
                for name in (what, f"val_{what}")
                if name in self.metrics
            }
            for what in bare
        }


def stages_of(bundle: Bundle, model: keras.Model | None) -> list[StageFacts]:
    """The stages of a run, in order.

    Args:
        bundle: the run.
        model: its model, whose flags are changed while the freeze tables are read; None: without tables.
    """
    recorded = bundle.record.get("stages")
    by_name = {str(it.get("name")): it for it in recorded if isinstance(it, dict)} if isinstance(recorded, list) else {}
    rows = bundle.history.to_dicts()
    return [
        _stage(stage, by_name.get(stage.name, {}), [row for row in rows if row.get("stage") == stage.name], model)
        for stage in bundle.recipe.stages
    ]


def numbers_of(measures: Measures) -> list[tuple[str, float | None, tuple[float, float] | None]]:
    """The headline numbers: name, value, 95 % interval or None."""
    named: list[tuple[str, str, float | None]] = [
        ("accuracy", "accuracy", measures.accuracy),
        ("balanced accuracy", "balanced_accuracy", measures.balanced_accuracy),
        *((f"top {k}", f"top_{k}", value) for k, value in measures.top_k.items()),
        ("macro F1", "macro_f1", measures.macro_f1),
        ("mean average precision", "mean_average_precision", measures.mean_average_precision),
        ("log loss", "log_loss", measures.log_loss),
        ("Brier score", "brier", measures.brier),
        ("calibration error (ECE)", "ece", measures.ece),
    ]
    return [(name, value, measures.intervals.get(key)) for name, key, value in named if value is not None]


def most_confused(measures: Measures, *, most: int = 10) -> list[tuple[str, str, int, int]]:
    """Which classes are taken for which: label, what it was called, how often, of how many of that label."""
    if measures.confusion is None:
        return []
    names, counts = measures.class_names, measures.confusion
    pairs = [
        (names[row], names[column], int(counts[row, column]), int(counts[row].sum()))
        for row in range(len(names))
        for column in range(len(names))
        if row != column and counts[row, column]
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]


def times_of(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What took how long, and what was not computed again."""
    from greffon.training.progress import duration

    trunk = record.get("trunk")
    trunk = trunk if isinstance(trunk, dict) else {}
    told = []
    for key, what in (
        ("seconds", "the whole training"),
        ("trunk_seconds", "of which the frozen part"),
        (
            "trunk_seconds_every_epoch",
            "the frozen part in every epoch would have taken, at the speed that was measured",
        ),
        ("seconds_saved", "saved by computing it once"),
    ):
        seconds = number(record.get(key))
        if seconds is not None and (key != "seconds_saved" or seconds > 0):
            told.append((what, duration(seconds)))
    for key, what in (("computed", "activations computed"), ("reused", "activations found in the store")):
        count = number(trunk.get(key))
        if count is not None:
            told.append((what, f"{count:,.0f}"))
    for key, what in (("engine", "frozen part ran on"), ("activations", "activations kept as")):
        if isinstance(trunk.get(key), str):
            told.append((what, trunk[key]))
    return told


def versions_of(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the run was made with."""
    versions = record.get("versions")
    return [(str(name), str(version)) for name, version in versions.items()] if isinstance(versions, dict) else []


def reproducing(bundle: Bundle, data: Any) -> list[str]:
    """Command lines that train the same again, measure it and use it."""
    run = bundle.path
    training = bundle.record.get("training")
    training = training if isinstance(training, dict) else {}
    columns = training.get("columns")
    given = next((it for it in (data, training.get("data"), bundle.record.get("root")) if it is not None), None)
    place = public(str(given)) if isinstance(given, str) or hasattr(given, "__fspath__") else None
    where = data_words(place, columns if data is None and isinstance(columns, dict) else None)
    return [
        command_line(
            "train", *where, "-o", f"{run}-again", "--recipe", run / "recipe.yaml", "--split", run / "split.parquet"
        ),
        command_line("evaluate", run, *where),
        command_line("predict", run, "PICTURE.jpg"),
    ]


def number(value: Any) -> float | None:
    """A finite number, or None for anything else that a record may hold in its place."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _stage(
    stage: Stage, recorded: Mapping[str, Any], rows: Sequence[dict[str, Any]], model: keras.Model | None
) -> StageFacts:
    trains, groups = _frozen(stage, model)
    proof = recorded.get("proof")
    proof = proof if isinstance(proof, dict) else {}
    best = number(recorded.get("best_epoch"))
    return StageFacts(
        stage.name,
        trains or str(recorded.get("trains", "")),
        groups,
        _sentence(proof),
        proof["holds"] if isinstance(proof.get("holds"), bool) else None,
        str(proof.get("digest", "")),
        tuple(rows),
        None if best is None else int(best),
        tuple(_remarks(stage, recorded)),
        _rates(recorded.get("rate_curve")),
    )


def _rates(recorded: Any) -> tuple[tuple[float, float], ...]:
    """The steps of a range test, where a record holds one."""
    if not isinstance(recorded, dict):
        return ()
    lists = [recorded.get("learning_rates"), recorded.get("losses")]
    if not all(isinstance(values, list) for values in lists):
        return ()
    pairs = [(number(rate), number(loss)) for rate, loss in zip(*lists, strict=False)]
    return tuple((rate, loss) for rate, loss in pairs if rate is not None and rate > 0 and loss is not None)


def _frozen(stage: Stage, model: keras.Model | None) -> tuple[str, tuple[GroupFacts, ...]]:
    """What a stage trained, read from the model with that stage's rules."""
    if model is None:
        return "", ()
    from greffon.backbone.freeze import freeze

    try:
        table = freeze(model, stage.unfreeze, batch_norm=stage.batch_norm)
    except GreffonError:  # rules that this model's layers do not fit any more
        return "", ()
    groups = (
        GroupFacts(name, total["layers"], total["parameters"], total["trainable"])
        for name, total in table.groups().items()
        if total["parameters"]
    )
    return table.describe(), tuple(groups)


def _sentence(proof: Mapping[str, Any]) -> str:
    from greffon.backbone.proof import FreezeProof

    known = {field.name for field in dataclasses.fields(FreezeProof)}
    try:
        return str(FreezeProof(**{name: value for name, value in proof.items() if name in known})) if proof else ""
    except (TypeError, AttributeError):
        return ""


def _remarks(stage: Stage, recorded: Mapping[str, Any]) -> list[str]:
    from greffon.training.progress import duration

    remarks = []
    if recorded.get("kept") is False:
        remarks.append("Taken back: it did not improve the validation loss surely enough, see the notes.")
    elif recorded.get("kept") is True:
        share = number(recorded.get("better_in_resamples"))
        remarks.append("Kept" + ("" if share is None else f": better in {share:.0%} of resamples") + ".")
    rate = number(recorded.get("chosen_learning_rate"))
    if rate is not None:
        remarks.append(f"The learning rate {rate:g} was chosen by a short search.")
    penalty = recorded.get("penalty")
    if isinstance(penalty, dict) and number(penalty.get("C")) is not None:
        remarks.append(f"Solved, with the penalty chosen by cross-validation: C = {penalty['C']:g}.")
    seconds = number(recorded.get("seconds"))
    if seconds is not None:
        cut = recorded.get("cut")
        behind = f", on what {cut} gives" if isinstance(cut, str) and cut else ""
        remarks.append(f"{duration(seconds)} of training{behind}; BatchNorm {stage.batch_norm}.")
    return remarks
