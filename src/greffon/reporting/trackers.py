"""TensorBoard and MLflow: every epoch of a training, counted over all of its stages, into a folder or to a server.

A training tells a `Reporter` of every epoch. `tracked` gives one that passes everything on to another, and writes the
epochs down meanwhile. What goes wrong with that is said once and costs no training.
"""

from __future__ import annotations

import math
import re
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from greffon.errors import InputError
from greffon.training.progress import Reporter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import RenderableType

    from greffon.recipe import Recipe
    from greffon.training.progress import Advance

MLFLOW_INSTALL = 'pip install "greffon[mlflow]"'

_LONGEST = 500  # characters of a parameter, which old MLflow servers take
_PATIENCE = 10.0  # seconds for a server to answer
_SCALAR = 1  # tensorboard.compat.proto.summary.DataClass.DATA_CLASS_SCALAR
_TENSOR = 2


class Tracker(Protocol):
    """Something that writes epochs down."""

    def epoch(self, step: int, values: Mapping[str, float]) -> None:
        """An epoch ended: its number over all stages, from 1, and its losses and metrics."""

    def summary(self, values: Mapping[str, float]) -> None:
        """What came out."""

    def close(self, status: str) -> None:
        """The training is over: FINISHED, FAILED or KILLED."""


@contextmanager
def tracked(
    reporter: Reporter,
    *,
    tensorboard: str | Path | None = None,
    mlflow: str | Path | None = None,
    recipe: Recipe | None = None,
    name: str = "run",
) -> Iterator[Reporter]:
    """A reporter that passes everything on and writes every epoch down; to be given to `greffon.train`.

    Args:
        reporter: that is passed on to.
        tensorboard: a folder for TensorBoard, which has training and validation as two runs in it.
        mlflow: a folder for MLflow: `mlflow.db`, to be looked at with
            `mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db`; or a tracking URI as MLflow takes it, such as
            `sqlite:///runs.db` or `http://127.0.0.1:5000`.
        recipe: written down with it.
        name: of the run.

    Yields:
        The reporter; the given one where neither folder is.

    Raises:
        InputError: MLflow is not installed or cannot use the URI, or a folder cannot be written to.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from greffon.reporting.trackers import tracked
        >>> from greffon.training.progress import Reporter
        >>> folder = Path(tempfile.mkdtemp())
        >>> with tracked(Reporter(), tensorboard=folder) as reporter:
        ...     reporter.stage("head", 1, 1)
        ...     reporter.epoch("head", 1, 20, {"loss": 0.5, "val_loss": 0.6}, True)
        >>> sorted(path.name for path in folder.iterdir())
        ['train', 'validation']
    """
    trackers: list[Tracker] = []
    if tensorboard is not None:
        trackers.append(TensorBoard(_writable(tensorboard), recipe))
    if mlflow is not None:
        trackers.append(MLflow(mlflow, recipe, name))
    if not trackers:
        yield reporter
        return
    status = "FAILED"
    told = _Tracked(reporter, trackers)
    with ExitStack() as stack:
        stack.callback(lambda: told.each("close", status))
        try:
            yield told
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise


class _Tracked(Reporter):
    """Passes everything on, and counts the epochs."""

    def __init__(self, reporter: Reporter, trackers: list[Tracker]) -> None:
        self._reporter, self._trackers, self._step = reporter, trackers, 0

    def each(self, what: str, *arguments: Any) -> None:
        """Tell every tracker; one that fails is let go."""
        for tracker in list(self._trackers):
            try:
                getattr(tracker, what)(*arguments)
            except Exception as error:  # whatever a library raises, it must not end the training
                self._trackers.remove(tracker)
                self._reporter.warn(f"{type(tracker).__name__} is no longer written: {error}")

    def note(self, text: str) -> None:
        """Passed on."""
        self._reporter.note(text)

    def warn(self, text: str) -> None:
        """Passed on."""
        self._reporter.warn(text)

    def show(self, renderable: RenderableType) -> None:
        """Passed on."""
        self._reporter.show(renderable)

    @contextmanager
    def bar(self, name: str, *, total: int | None, unit: str = "pictures") -> Iterator[Advance]:
        """Passed on."""
        with self._reporter.bar(name, total=total, unit=unit) as advance:
            yield advance

    def stage(self, name: str, index: int, count: int, table: RenderableType | None = None) -> None:
        """Passed on; with the first stage the epochs begin anew."""
        if index == 1:
            self._step = 0
        self._reporter.stage(name, index, count, table)

    def epoch(self, stage: str, epoch: int, epochs: int, logs: Mapping[str, float], best: bool) -> None:
        """Written down under its number over all stages, and passed on."""
        self._step += 1
        self._reporter.epoch(stage, epoch, epochs, logs, best)
        self.each("epoch", self._step, {name: float(value) for name, value in logs.items()})

    def summary(self, renderable: RenderableType) -> None:
        """Passed on; the numbers in it are written down."""
        values = getattr(renderable, "summary", None)
        if isinstance(values, dict):
            numbers = {name: float(value) for name, value in values.items() if _is_number(value)}
            self.each("summary", numbers)
        self._reporter.summary(renderable)


class TensorBoard:
    """Event files as Keras' own callback names them: `epoch_loss` in train/ and in validation/.

    Args:
        folder: is there.
        recipe: shown as text.
    """

    def __init__(self, folder: Path, recipe: Recipe | None = None) -> None:
        # TensorFlow can write all of it by itself; tf.summary.scalar would need the package tensorboard.
        import tensorflow as tf

        self._tf = tf
        sides = ("train", "validation")
        self._writers = {side: tf.summary.create_file_writer(str(folder / side)) for side in sides}
        if recipe is not None:
            text = "\n".join(f"    {line}" for line in recipe.to_yaml().splitlines())
            self._write("train", "recipe", tf.constant(text), 0, "text", _TENSOR)

    def epoch(self, step: int, values: Mapping[str, float]) -> None:
        """Each number on its side."""
        for name, value in values.items():
            side = "validation" if name.startswith("val_") else "train"
            tag = f"epoch_{name.removeprefix('val_')}"
            self._write(side, tag, self._tf.constant(value, "float32"), step, "scalars", _SCALAR)
        for writer in self._writers.values():
            writer.flush()

    def summary(self, values: Mapping[str, float]) -> None:
        """Nothing: the last epoch says it."""

    def close(self, status: str) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()

    def _write(self, side: str, tag: str, tensor: Any, step: int, plugin: str, kind: int) -> None:
        summary = self._tf.compat.v1.SummaryMetadata
        about = summary(plugin_data=summary.PluginData(plugin_name=plugin), data_class=kind)
        with self._writers[side].as_default():
            self._tf.summary.write(tag, tensor, step=step, metadata=about)


class MLflow:
    """A run in an MLflow database of its own, or where a tracking URI says.

    Args:
        place: a folder, which is made, or a tracking URI.
        recipe: its options become parameters.
        name: of the run.

    Raises:
        InputError: MLflow is not installed, or cannot write there.
    """

    def __init__(self, place: str | Path, recipe: Recipe | None = None, name: str = "run") -> None:
        from importlib import import_module

        try:
            client = import_module("mlflow.tracking").MlflowClient
        except ImportError as error:
            raise InputError(f"MLflow is not installed ({error}): {MLFLOW_INSTALL}") from error
        artifacts: dict[str, str] = {}
        if is_uri(place):
            uri = str(place)
            _check_answers(uri)
        else:
            folder = _writable(place).resolve()
            uri = f"sqlite:///{folder / 'mlflow.db'}"  # MLflow refuses plain folders
            artifacts["artifact_location"] = (folder / "artifacts").as_uri()
        try:
            # A client of its own: what the user's program does with MLflow is left alone.
            self._client = client(tracking_uri=uri)
            known = self._client.get_experiment_by_name("greffon")
            number = known.experiment_id if known else self._client.create_experiment("greffon", **artifacts)
            self._run = self._client.create_run(number, run_name=name).info.run_id
            for option, value in _flat(recipe.model_dump(mode="json") if recipe is not None else {}).items():
                self._client.log_param(self._run, option, value[:_LONGEST])
        except Exception as error:  # whatever MLflow and the libraries under it raise
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"MLflow cannot write to {_without_password(uri)}: {first}") from error

    def epoch(self, step: int, values: Mapping[str, float]) -> None:
        """Each number under its own name."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def summary(self, values: Mapping[str, float]) -> None:
        """Each number as `final_NAME`."""
        for name, value in values.items():
            self._client.log_metric(self._run, f"final_{name}", value)

    def close(self, status: str) -> None:
        """Say how it ended."""
        self._client.set_terminated(self._run, status)


def is_uri(place: str | Path) -> bool:
    """Whether MLflow is told where by a tracking URI, and not by a folder.

    Example:
        >>> from greffon.reporting.trackers import is_uri
        >>> [is_uri(place) for place in ("sqlite:///runs.db", "http://127.0.0.1:5000", "runs", "C:/runs")]
        [True, True, False, False]
    """
    return isinstance(place, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", place) is not None


def _check_answers(uri: str) -> None:
    """Refuse a server that is not there at once: MLflow tries again for minutes."""
    import socket
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(uri)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError as error:
        raise InputError(f"{_without_password(uri)!r} is no tracking URI: {error}") from None
    if parts.scheme not in ("http", "https") or port is None:
        return
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_PATIENCE).close()
    except OSError as error:
        raise InputError(f"no MLflow server answers at {_without_password(uri)}: {error}") from None


def _without_password(uri: str) -> str:
    """For messages."""
    return re.sub(r"//[^/@]*@", "//...@", uri)


def _flat(values: Any, prefix: str = "") -> dict[str, str]:
    """`head.pool` for what lies in `head`; `stages.0.name` for the first stage's."""
    if isinstance(values, dict | list):
        pairs = values.items() if isinstance(values, dict) else enumerate(values)
        found: dict[str, str] = {}
        for name, value in pairs:
            found |= _flat(value, f"{prefix}.{name}" if prefix else str(name))
        return found
    return {prefix: str(values)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _writable(folder: str | Path) -> Path:
    place = Path(folder).expanduser()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{place} cannot be written to: {error.strerror or error}") from None
    return place
