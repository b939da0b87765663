"""What a training has to remember so that it can go on elsewhere as if nothing had happened, and the file it is in.

Whatever has a state joins by two methods, `state` and `restore` (`Stateful`). Of a stage that trains, the variables of
tail, optimizer and metrics are kept without further ado, seed generators of layers among them: a schedule that is a
function of the optimizer's steps has no state of its own. Callbacks of the stage that are `Stateful` are kept under
the name of their class; any other object has to be given to `Parts.add`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

State = dict[str, Any]
"""A tree of dicts and lists; its leaves are NumPy arrays (numbers, not objects) and what JSON takes."""

_ARRAY = "array of this file"  # stands in the tree for an array, with its name
_TREE = "state"


class CheckpointError(InputError):
    """A checkpoint that cannot be read, or is not of this training."""


@runtime_checkable
class Stateful(Protocol):
    """Something that a training changes and that is not a variable of its tail, optimizer or metrics."""

    def state(self) -> State:
        """Everything that must be known to go on; a copy, which later steps do not change."""

    def restore(self, state: State) -> None:
        """Be as it was when `state` was called, in a new object that was made in the same way."""


class Parts:
    """Objects with a state, by name.

    Example:
        >>> from greffon.training.checkpoint import Parts
        >>> class Counter:
        ...     count = 0
        ...     def state(self): return {"count": self.count}
        ...     def restore(self, state): self.count = state["count"]
        >>> before, after = Counter(), Counter()
        >>> before.count = 3
        >>> Parts(counter=after).restore(Parts(counter=before).state())
        >>> after.count
        3
    """

    def __init__(self, **parts: Stateful) -> None:
        self._parts: dict[str, Stateful] = dict(parts)

    def add(self, name: str, part: Stateful) -> None:
        """Keep another one.

        Raises:
            InputError: the name is taken.
        """
        if name in self._parts:
            raise InputError(f"two parts of a training are called {name!r}; give one of them another name")
        self._parts[name] = part

    def add_stateful(self, objects: Iterable[Any]) -> None:
        """Keep those that have a state, under the names of their classes."""
        for it in objects:
            if isinstance(it, Stateful):
                self.add(type(it).__name__, it)

    def state(self) -> State:
        """Of each of them."""
        return {name: part.state() for name, part in self._parts.items()}

    def restore(self, state: State) -> None:
        """Give each of them its own.

        Raises:
            CheckpointError: there are others than when it was saved.
        """
        if set(state) != set(self._parts):
            raise CheckpointError(
                f"the checkpoint is of a training with {', '.join(sorted(state))}, this one has "
                f"{', '.join(sorted(self._parts))}: another version of Greffon wrote it. Train again with --overwrite"
            )
        for name, part in self._parts.items():
            part.restore(state[name])


def save_state(file: str | Path, state: State) -> None:
    """Write a state beside its place, bring it to the disk, and rename it there: it is there as a whole or not at all.

    Args:
        file: replaced if it is there; a state that cannot be written leaves it as it was.
        state: see `State`.

    Raises:
        OSError: the disk is full, or cannot be written to.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from greffon.training.checkpoint import load_state, save_state
        >>> file = tempfile.mkdtemp() + "/state"
        >>> save_state(file, {"epoch": 3, "kept": [np.ones(2, "float32")], "lowest": float("inf")})
        >>> load_state(file)
        {'epoch': 3, 'kept': [array([1., 1.], dtype=float32)], 'lowest': inf}
    """
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray[Any, Any]] = {}
    tree = _without_arrays(state, arrays)
    write_durably(Path(file), save(arrays, metadata={_TREE: json.dumps(tree)}))


def load_state(file: str | Path) -> State:
    """Read what `save_state` wrote.

    Raises:
        CheckpointError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            tree = json.loads((opened.metadata() or {})[_TREE])
            return dict(_with_arrays(tree, opened))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"checkpoint {file} cannot be read: {error}") from None


def write_durably(file: Path, content: bytes) -> None:
    """Write a file beside its place, bring it to the disk and rename it there.

    Raises:
        OSError: it could not be written; what was there is there.
    """
    beside = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name itself must be on the disk
        handle = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _without_arrays(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, dict):
        return {str(name): _without_arrays(part, arrays) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_arrays(part, arrays) for part in value]
    if isinstance(value, np.ndarray):
        name = str(len(arrays))
        arrays[name] = np.array(value, order="C")
        return {_ARRAY: name}
    return value.item() if isinstance(value, np.generic) else value


def _with_arrays(value: Any, opened: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return opened.get_tensor(value[_ARRAY])
        return {name: _with_arrays(part, opened) for name, part in value.items()}
    return [_with_arrays(part, opened) for part in value] if isinstance(value, list) else value
