from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest


class Job(types.ModuleType):
    """A training job that is called like the real one and does what a test sets as `does`."""

    def __init__(self) -> None:
        super().__init__("greffon.training.train")
        self.calls = []
        self.does = lambda: types.SimpleNamespace(path=Path("run"), summary={"accuracy": 0.5, "notes": []})

    def train(self, data, **options):
        self.calls.append((data, options))
        return self.does()


@pytest.fixture
def job(monkeypatch):
    job = Job()
    monkeypatch.setitem(sys.modules, "greffon.training.train", job)
    return job
