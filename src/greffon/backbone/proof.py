"""Proof of freezing: what had to stand still did, bit for bit, and what had to move moved."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from greffon.backbone.freeze import optimizer_variables
from greffon.backbone.parts import learnable, leaves, sublayers, variable_names
from greffon.errors import CheckFailedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import keras
    import numpy as np

Role = Literal["frozen", "trains", "statistics", "state"]

_NO_REASON = "not known why: the optimizer keeps no trace of gradients"
_NOT_HELD = "the optimizer does not hold it: the model was not compiled after it was unfrozen"
_STUCK = "its gradient is not zero, and yet it did not move"
_NO_STATISTICS = "no batch went through it in training mode"
_FAILURES = {_NOT_HELD, _STUCK}


@dataclass(frozen=True)
class Fingerprint:
    """Every weight of a model before a stage.

    Attributes:
        hashes: XXH3-128 of dtype, shape and bytes, by the weight's name.
        roles: what the weight may do in the stage: `frozen` (nothing), `trains`, `statistics` (of a BatchNorm on
            batch statistics: moves while training), `state` (a layer's own: may move).
        batch_norm: names of all BatchNorm statistics.
    """

    hashes: Mapping[str, str]
    roles: Mapping[str, Role]
    batch_norm: frozenset[str]


@dataclass(frozen=True)
class FreezeProof:
    """What a stage did to the weights; goes into the run's record as `to_dict`.

    Attributes:
        frozen: how many tensors had to stand still.
        frozen_statistics: how many of them are statistics of BatchNorm.
        changed: names of those that did not stand still.
        trained: how many tensors had to move.
        moved: how many of them did.
        unmoved: the others, with the reason.
        moving_statistics: how many statistics of BatchNorm were to move, and did.
        steps: that the optimizer has taken; None if not known.
        digest: of all frozen tensors together, to compare runs by.
    """

    frozen: int
    frozen_statistics: int
    changed: tuple[str, ...]
    trained: int
    moved: int
    unmoved: Mapping[str, str] = field(default_factory=dict)
    moving_statistics: int = 0
    steps: int | None = None
    digest: str = ""

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the tensors that did what they must not; a zero gradient or learning rate is no failure."""
        return self.changed + tuple(name for name, reason in self.unmoved.items() if reason in _FAILURES)

    @property
    def holds(self) -> bool:
        """Whether freezing is proven."""
        return not self.failed

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        return asdict(self) | {"changed": list(self.changed), "unmoved": dict(self.unmoved), "holds": self.holds}

    def __str__(self) -> str:
        if self.changed:
            stood = f"{len(self.changed)} of {self.frozen} frozen tensors changed: {_some(self.changed)}"
        else:
            stood = (
                f"{self.frozen} frozen tensors ({self.frozen_statistics} of them BatchNorm statistics) are unchanged "
                "bit for bit"
            )
        moved = f"{self.moved} of {self.trained} trained tensors moved"
        for reason in dict.fromkeys(self.unmoved.values()):
            names = [name for name, why in self.unmoved.items() if why == reason]
            moved += f"; {_some(names)}: {reason}"
        return f"{stood}; {moved}"


def fingerprint(model: keras.Model) -> Fingerprint:
    """Hash every weight of a model, and note what may happen to it as its flags are now.

    Args:
        model: any built Keras model; states of random generators are not weights.

    Example:
        >>> import greffon
        >>> from greffon.backbone.proof import check, fingerprint
        >>> model = greffon.graft(greffon.resnet50(weights=None, input_shape=(64, 64, 3)), classes=10)
        >>> table = greffon.freeze(model)
        >>> before = fingerprint(model)
        >>> check(model, before).frozen  # no training in between: only the head should have moved
        318
    """
    roles, statistics = _roles(model)
    named = variable_names(model)
    return Fingerprint(
        hashes={name: _hash(variable) for name, variable in named},
        roles={name: roles[id(variable)] for name, variable in named},
        batch_norm=frozenset(name for name, variable in named if id(variable) in statistics),
    )


def examine(model: keras.Model, before: Fingerprint, *, optimizer: Any = None) -> FreezeProof:
    """Compare a model's weights with what they were before a stage.

    Do it before best weights are restored: weights that go back to the first epoch's start have not stood still.

    Args:
        model: the one that was trained, as it is now.
        before: its fingerprint at the start of the stage, after freezing.
        optimizer: the stage's own; None: the model's, if it is compiled. Where a weight that should have moved did
            not, it tells whether its gradient was exactly zero.

    Raises:
        CheckFailedError: the model has other weights than the one of the fingerprint.
    """
    named = dict(variable_names(model))
    if named.keys() != before.hashes.keys():
        raise CheckFailedError(
            "the proof of freezing needs the model of the fingerprint; these weights are in one of the two only: "
            f"{_some(sorted(named.keys() ^ before.hashes.keys()))}"
        )
    optimizer = _inner(optimizer if optimizer is not None else getattr(model, "optimizer", None))
    hashes = {name: _hash(variable) for name, variable in named.items()}
    moved = {name for name, digest in hashes.items() if digest != before.hashes[name]}
    frozen = [name for name, role in before.roles.items() if role == "frozen"]
    trained = [name for name, role in before.roles.items() if role == "trains"]
    statistics = [name for name, role in before.roles.items() if role == "statistics"]
    unmoved = {name: _why_unmoved(named[name], optimizer) for name in trained if name not in moved}
    unmoved |= {name: _NO_STATISTICS for name in statistics if name not in moved}
    return FreezeProof(
        frozen=len(frozen),
        frozen_statistics=len(before.batch_norm.intersection(frozen)),
        changed=tuple(name for name in frozen if name in moved),
        trained=len(trained),
        moved=len(moved.intersection(trained)),
        unmoved=unmoved,
        moving_statistics=len(moved.intersection(statistics)),
        steps=_steps(optimizer),
        digest=_digest(hashes[name] for name in sorted(frozen)),
    )


def check(model: keras.Model, before: Fingerprint, *, optimizer: Any = None) -> FreezeProof:
    """`examine`, and refuse what it finds if freezing did not hold.

    Raises:
        CheckFailedError: a frozen weight changed, or one that trains did not although its gradient is not zero; the
            message names them.
    """
    proof = examine(model, before, optimizer=optimizer)
    if not proof.holds:
        raise CheckFailedError(f"the proof of freezing failed. {proof}")
    return proof


def proof_callback(model: keras.Model, before: Fingerprint) -> Any:
    """A Keras callback that examines at the end of training.

    Put it in front of EarlyStopping, which restores the best weights at the same moment.

    Args:
        model: the whole model; the one that is fitted may be a part of it that shares its variables.
        before: its fingerprint.

    Returns:
        A callback whose `proof` is a `FreezeProof` once training has ended, None before.
    """
    import keras

    class ProofCallback(keras.callbacks.Callback):
        proof: FreezeProof | None = None

        def on_train_end(self, logs: dict[str, float] | None = None) -> None:
            self.proof = examine(model, before, optimizer=self.model.optimizer)

    return ProofCallback()


def _roles(model: Any) -> tuple[dict[int, Role], set[int]]:
    """What each weight may do, by its id; and the ids of all BatchNorm statistics."""
    import keras

    training = {id(variable) for variable in model.trainable_variables}
    roles: dict[int, Role] = {id(variable): "frozen" for variable in model.weights}
    statistics: set[int] = set()
    for leaf in leaves(model):
        for part in sublayers(leaf.layer):
            own = {id(variable) for inner in part._layers for variable in inner.weights}
            can = {id(variable) for variable in learnable(part)}
            rest = [id(variable) for variable in part.weights if id(variable) not in own | can]
            if isinstance(part, keras.layers.BatchNormalization):
                statistics.update(rest)
                roles.update((key, "statistics") for key in rest if part.trainable)
            elif not isinstance(part, keras.layers.Normalization):  # whose statistics `fit` never moves
                roles.update((key, "state") for key in rest if part.trainable)
    roles.update((key, "trains") for key in training)
    return roles, statistics


def _why_unmoved(variable: Any, optimizer: Any) -> str:
    """Why a weight that was to train is bit for bit what it was."""
    held = optimizer_variables(optimizer)
    if held is None or not _steps(optimizer):
        return "no step was taken"
    position = next((n for n, other in enumerate(held) if other is variable), None)
    if position is None:
        return _NOT_HELD
    rate = float(optimizer.learning_rate)
    if rate == 0:
        return "the learning rate is 0"
    step = _last_step(optimizer, position, rate)
    if step is None:
        return _NO_REASON
    if not step.any():
        return "its gradient was exactly zero"
    import numpy as np

    resolution = np.spacing(np.abs(_array(variable)))
    return _STUCK if bool((step > resolution).any()) else "its steps were smaller than its precision"


def _last_step(optimizer: Any, position: int, rate: float) -> np.ndarray[Any, Any] | None:
    """How far the optimizer's last step moved each value, from what it remembers; None where it keeps nothing.

    Momenta and velocities start at zero, so they are zero exactly where every gradient was.
    """
    import numpy as np

    momentum, velocity = _slot(optimizer, "_momentums", position), _slot(optimizer, "_velocities", position)
    if momentum is not None and velocity is not None:
        return rate * np.abs(momentum) / (np.sqrt(velocity) + 1e-7)
    if velocity is not None:
        return rate * np.sqrt(velocity) / (np.sqrt(velocity) + 1e-7)
    if momentum is not None:
        return rate * np.sign(np.abs(momentum))  # Lion goes by the sign
    momentum = _slot(optimizer, "momentums", position)  # SGD's is the step itself
    return None if momentum is None else np.abs(momentum)


def _slot(optimizer: Any, name: str, position: int) -> np.ndarray[Any, Any] | None:
    slots = getattr(optimizer, name, None)
    return _array(slots[position]) if slots and slots[position] is not None else None


def _inner(optimizer: Any) -> Any:
    return getattr(optimizer, "inner_optimizer", optimizer)


def _steps(optimizer: Any) -> int | None:
    return int(optimizer.iterations) if optimizer is not None and optimizer.built else None


def _array(variable: Any) -> np.ndarray[Any, Any]:
    import keras

    return keras.ops.convert_to_numpy(variable)


def _hash(variable: Any) -> str:
    import numpy as np
    import xxhash

    array = np.ascontiguousarray(_array(variable))
    digest = xxhash.xxh3_128(f"{array.dtype} {array.shape} ".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _digest(hashes: Iterable[str]) -> str:
    import xxhash

    return xxhash.xxh3_128(" ".join(hashes).encode()).hexdigest()


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
