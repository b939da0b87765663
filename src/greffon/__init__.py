"""Transfer learning with ResNet-50 on Keras 3: the frozen part computed once, nothing silent."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from greffon.backbone.freeze import freeze, layers
    from greffon.backbone.graft import graft
    from greffon.backbone.resnet import resnet50, resnet101, resnet152
    from greffon.bundle.predict import Predictor, load
    from greffon.checking.check import check
    from greffon.checking.report import Check
    from greffon.diagnosing.diagnose import diagnose
    from greffon.diagnosing.result import Diagnosis
    from greffon.errors import (
        CheckFailedError,
        DataError,
        FreezeError,
        GreffonError,
        InputError,
        WeightFileError,
    )
    from greffon.evaluation.evaluate import Evaluation, evaluate
    from greffon.exporting.export import Exported, export
    from greffon.recipe import Head, Recipe, Stage
    from greffon.searching.learning_rate import LearningRate, find_learning_rate
    from greffon.searching.result import Study
    from greffon.searching.tune import tune
    from greffon.training.fit import fit
    from greffon.training.many import fit_many
    from greffon.training.plan import plan
    from greffon.training.reproduce import Reproduction, reproduce
    from greffon.training.resume import resume
    from greffon.training.run import Run
    from greffon.training.train import train
    from greffon.training.trials import Trial, TrialResult
    from greffon.training.ways import Plan

# Public name -> its module. Imported on first use, so that `import greffon` stays under a few milliseconds.
_HOMES = {
    "resnet50": "greffon.backbone.resnet",
    "resnet101": "greffon.backbone.resnet",
    "resnet152": "greffon.backbone.resnet",
    "graft": "greffon.backbone.graft",
    "freeze": "greffon.backbone.freeze",
    "layers": "greffon.backbone.freeze",
    "fit": "greffon.training.fit",
    "fit_many": "greffon.training.many",
    "plan": "greffon.training.plan",
    "Plan": "greffon.training.ways",
    "Trial": "greffon.training.trials",
    "TrialResult": "greffon.training.trials",
    "train": "greffon.training.train",
    "Run": "greffon.training.run",
    "resume": "greffon.training.resume",
    "reproduce": "greffon.training.reproduce",
    "Reproduction": "greffon.training.reproduce",
    "load": "greffon.bundle.predict",
    "Predictor": "greffon.bundle.predict",
    "tune": "greffon.searching.tune",
    "Study": "greffon.searching.result",
    "find_learning_rate": "greffon.searching.learning_rate",
    "LearningRate": "greffon.searching.learning_rate",
    "check": "greffon.checking.check",
    "Check": "greffon.checking.report",
    "diagnose": "greffon.diagnosing.diagnose",
    "Diagnosis": "greffon.diagnosing.result",
    "export": "greffon.exporting.export",
    "Exported": "greffon.exporting.export",
    "evaluate": "greffon.evaluation.evaluate",
    "Evaluation": "greffon.evaluation.evaluate",
    "Head": "greffon.recipe",
    "Stage": "greffon.recipe",
    "Recipe": "greffon.recipe",
    "GreffonError": "greffon.errors",
    "InputError": "greffon.errors",
    "WeightFileError": "greffon.errors",
    "FreezeError": "greffon.errors",
    "DataError": "greffon.errors",
    "CheckFailedError": "greffon.errors",
}

# What cannot do without the packages of greffon[train].
_TRAINING = {
    *("resnet50", "resnet101", "resnet152", "graft", "freeze", "layers"),
    *("fit", "fit_many", "plan", "train", "resume", "reproduce", "check", "export"),
}

__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604  # the names are strings, built from the table above


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'greffon' has no attribute {name!r}")
    from importlib import import_module

    if name in _TRAINING:
        from greffon.extras import require

        require("train", f"greffon.{name}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
