"""What a training chose by timing: engine, threads, batch size, XLA. Taken again where it is resumed or reproduced.

Each of them may change the last bits of a result, and would come out otherwise on a busier day.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from greffon.frozen.build import build_engine
from greffon.frozen.hardware import cpu_model, usable_cores
from greffon.frozen.remembered import structure
from greffon.frozen.tuning import Tuning

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from greffon.frozen.engine import Engine
    from greffon.frozen.graph import FlatGraph


class Choices:
    """Made once, then known.

    Args:
        known: what an earlier training chose, as `to_dict` gave it.
        changed: called with `to_dict` whenever something was chosen.

    Example:
        >>> from greffon.training.choices import Choices
        >>> choices = Choices()
        >>> choices.xla("last-block", lambda: True), choices.xla("last-block", lambda: False)
        (True, True)
        >>> Choices(choices.to_dict()).xla("last-block", lambda: False)
        True
    """

    def __init__(
        self,
        known: Mapping[str, Any] | None = None,
        changed: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        known = known or {}
        self._engines: dict[str, dict[str, Any]] = dict(known.get("engines", {}))
        self._xla: dict[str, bool] = dict(known.get("xla", {}))
        self._changed = changed

    def to_dict(self) -> dict[str, Any]:
        """For the run's record: engines by the structure of what they compute, XLA by the name of the stage."""
        return {"engines": dict(self._engines), "xla": dict(self._xla), "machine": machine()}

    def xla(self, stage: str, try_it: Callable[[], bool]) -> bool:
        """Whether XLA compiles a stage."""
        if stage not in self._xla:
            self._xla[stage] = bool(try_it())
            self._changed(self.to_dict())
        return self._xla[stage]

    def engine(self, graph: FlatGraph, *, pictures: int, **options: Any) -> Engine:
        """The engine for a trunk; see `build_engine`."""
        name = structure(graph)
        known = self._engines.get(name)
        if known is not None:
            tuning = Tuning(known["threads"] or usable_cores(), known["batch_size"])
            prefer = "keras" if known["engine"] == "keras" else "auto"
            return build_engine(graph, tuning=tuning, prefer=prefer, **options)
        engine = build_engine(graph, pictures=pictures, **options)
        self._engines[name] = {"engine": engine.name, "threads": engine.threads, "batch_size": engine.batch_size}
        self._changed(self.to_dict())
        return engine


def machine() -> dict[str, Any]:
    """What of a machine the last bits of a result depend on."""
    return {
        "processor": cpu_model(),
        "cores": usable_cores(),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
    }
