"""Every example in a docstring, run as it stands; and every public door has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import greffon

SOURCE = Path(greffon.__file__).parent
# By their files: walking the packages would import Keras while tests are collected.
MODULES = sorted(
    ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    for file in SOURCE.rglob("*.py")
    if file.name != "__main__.py"
)
# What a door returns is shown by the example of that door: running it again would train again.
SHOWN_BY = {
    "Plan": "plan",
    "Run": "train",
    "Predictor": "load",
    "Evaluation": "evaluate",
    "Check": "check",
    "Exported": "export",
    "Reproduction": "reproduce",
    "Study": "tune",
    "LearningRate": "find_learning_rate",
    "Diagnosis": "diagnose",
    "resnet101": "resnet50",
    "resnet152": "resnet50",
}
# Trainings one after the other: what these doors do is tested elsewhere, so their examples run with everything.
LONG = {
    f"greffon.{name}" for name in ("training.reproduce", "training.resume", "diagnosing.diagnose", "training.trials")
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Examples that write relative paths, or make temporary folders, leave nothing behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def examples_of(module):
    """The docstrings of a module that hold examples, in the order of its lines."""
    found = doctest.DocTestFinder(exclude_empty=True).find(module)
    return sorted((test for test in found if test.examples), key=lambda test: test.lineno or 0)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.large) if name in LONG else name for name in MODULES]
)
def test_the_examples_run(name):
    told: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in examples_of(importlib.import_module(name)):
        runner.run(test, out=told.append)
    assert not runner.failures, "".join(told)


@pytest.mark.parametrize("name", [name for name in greffon.__all__ if name[0] != "_" and not name.endswith("Error")])
def test_a_public_door_has_an_example(name):
    value = getattr(greffon, name)
    assert callable(value)
    assert inspect.getdoc(value)
    shown = getattr(greffon, SHOWN_BY.get(name, name))
    assert any(test.examples for test in doctest.DocTestFinder().find(shown)), f"greffon.{name} has no example"


def test_exceptions_say_what_they_are_for():
    errors = [getattr(greffon, name) for name in greffon.__all__ if name.endswith("Error")]
    assert errors
    assert all("__doc__" in vars(error) and error.__doc__ for error in errors)
