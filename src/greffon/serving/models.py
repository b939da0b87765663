"""The runs that are served, by name, and how a new version takes an old one's place with no request lost.

A request keeps the version that it began with, whatever takes its place meanwhile; the old version is gone when the
last of its requests is answered.
"""

from __future__ import annotations

import asyncio
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from greffon.errors import GreffonError, InputError
from greffon.frozen.hardware import usable_cores
from greffon.serving.batcher import Batcher, Lanes
from greffon.serving.model import ServedModel, version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from greffon.serving.metrics import Metrics
    from greffon.serving.settings import Settings

_log = logging.getLogger("greffon.serving")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, eq=False)
class Served:
    """One version of a model, and what puts pictures into its batches."""

    model: ServedModel
    batcher: Batcher


class Models:
    """What is served.

    Args:
        runs: folder by name, at least one; the first is the one that requests without a name get.
        settings: of the service.
        metrics: where batches are counted.
        load: makes the model of a name and a folder.
    """

    def __init__(
        self,
        runs: Mapping[str, Path],
        settings: Settings,
        metrics: Metrics,
        load: Callable[[str, Path], ServedModel] = ServedModel.load,
    ) -> None:
        self._runs = dict(runs)
        self._settings = settings
        self._metrics = metrics
        self._load = load
        self._served: dict[str, Served] = {}
        self._tried: dict[str, str] = {}
        self._loading = asyncio.Lock()
        self._lanes = Lanes(usable_cores())
        self._loader = ThreadPoolExecutor(1, "greffon-loader")

    @property
    def default(self) -> str:
        """The name that requests without one get."""
        return next(iter(self._runs))

    @property
    def ready(self) -> bool:
        """Whether all models are loaded."""
        return len(self._served) == len(self._runs)

    def all(self) -> list[Served]:
        """What answers now."""
        return list(self._served.values())

    def get(self, name: str, version: str | None = None) -> Served | None:
        """What answers under a name now; None where nothing does, or another version."""
        served = self._served.get(name)
        return served if served is not None and version in (None, served.model.version) else None

    async def load(self) -> None:
        """Open all of them.

        Raises:
            GreffonError: one cannot be opened.
        """
        for name in self._runs:
            await self._open(name)

    async def reload(self, name: str, *, even_if_same: bool = False) -> str:
        """Put what lies in the run's folder now in the place of what answers.

        Returns:
            `loaded`, or `unchanged` where the folder holds what answers already.

        Raises:
            GreffonError: it cannot be opened; the old version goes on.
        """
        async with self._loading:
            old = self._served[name]
            try:
                if not even_if_same and version_of(self._runs[name]) == old.model.version:
                    return "unchanged"
                await self._open(name)
            except GreffonError:
                self._metrics.reloads.labels(name, "failed").inc()
                raise
            except Exception as error:  # a run that is half copied may fail in any way, and the old one shall go on
                self._metrics.reloads.labels(name, "failed").inc()
                raise InputError(f"{self._runs[name]} cannot be loaded: {type(error).__name__}: {error}") from error
            if old.model.version != self._served[name].model.version:
                self._metrics.forget(old)
            self._metrics.reloads.labels(name, "loaded").inc()
            return "loaded"

    async def reload_changed(self) -> None:
        """Look at every folder; a version that could not be opened is not tried again until it changes."""
        for name, run in self._runs.items():
            try:
                version = version_of(run)
            except GreffonError:
                continue  # just being replaced
            if version not in (self._served[name].model.version, self._tried.get(name)):
                self._tried[name] = version
                await self.reload_all([name])

    async def reload_all(self, names: Iterable[str] | None = None) -> None:
        """Look at every folder, or some; what cannot be opened is logged, and the old version goes on."""
        for name in names or self._runs:
            try:
                outcome = await self.reload(name)
            except GreffonError as error:
                _log.error("reload failed: %s", error, extra={"fields": {"event": "reload", "model": name}})
            else:
                fields = {"event": "reload", "model": name, "outcome": outcome}
                _log.info("reload: %s", outcome, extra={"fields": fields})

    def close(self) -> None:
        """End the threads; to be called when no request is left."""
        self._lanes.close()
        self._loader.shutdown(wait=True)

    async def _open(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        model = await loop.run_in_executor(self._loader, self._load, name, self._runs[name])
        served = Served(
            model,
            Batcher(model.run, self._lanes, batch=self._settings.batch, wait=self._settings.wait),
        )
        self._metrics.follow(served)
        self._served[name] = served


def runs_by_name(words: Sequence[str]) -> dict[str, Path]:
    """Folders by the names that they are served under.

    Args:
        words: `FOLDER`, whose own name is taken, or `NAME=FOLDER`.

    Raises:
        InputError: a name is none that fits into an address, or two are the same.

    Example:
        >>> from greffon.serving.models import runs_by_name
        >>> {name: path.as_posix() for name, path in runs_by_name(["runs/pets", "birds=runs/second"]).items()}
        {'pets': 'runs/pets', 'birds': 'runs/second'}
    """
    runs: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or Path(word).exists():
            name, folder = Path(word).absolute().name, word
        if not _NAME.fullmatch(name):
            raise InputError(
                f"{name!r} cannot be the name of a served model: letters, digits, '_', '.' and '-', at most 64. Give "
                f"one with NAME={folder}"
            )
        if name in runs:
            raise InputError(f"two models would be called {name!r}; give one another name with NAME={folder}")
        runs[name] = Path(folder)
    if not runs:
        raise InputError("there is no run to serve: give at least one folder that greffon train wrote")
    return runs
