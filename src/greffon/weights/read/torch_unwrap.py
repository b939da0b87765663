"""From what a checkpoint holds to named tensors: which of its dicts or modules is the network, what is beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greffon.errors import WeightFileError
from greffon.weights.read.arrays import Contents
from greffon.weights.read.pickled_values import Inert
from greffon.weights.read.torch_arrays import StoredArray
from greffon.weights.read.torch_module import collected, is_module
from greffon.weights.read.torch_names import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

# Where training scripts put the network. Of several in one checkpoint the first counts: moving averages, which are
# what is evaluated and published, before the weights that are trained, and so a teacher before a student.
_NETWORKS = (
    *("state_dict_ema", "model_ema_state_dict", "model_ema", "ema_state_dict", "ema_model", "params_ema", "ema"),
    *("state_dict", "model_state_dict", "model_state", "model_dict", "model", "net_state_dict", "net", "network"),
    *("teacher", "student", "classy_state_dict", "base_model", "module", "weights", "params", "blobs"),
)
_AVERAGED = frozenset(_NETWORKS[:7])
# Where they put what has tensors, too, and is no network.
_NO_NETWORKS = frozenset(
    {
        *("optimizer", "optimizers", "optimizer_state", "optimizer_states", "optimizer_state_dict", "optim", "opt"),
        *("optim_state_dict", "optimizer_dict", "lr_scheduler", "lr_schedulers", "scheduler", "scheduler_state_dict"),
        *("scaler", "amp", "amp_scaler", "grad_scaler", "rng_state", "rng_states", "torch_rng_state", "random_state"),
        *("cuda_rng_state", "callbacks", "loops", "criterion", "loss", "loss_state_dict", "dino_loss", "queue"),
        *("state", "param_groups", "memory_bank", "metrics", "history", "args", "config", "cfg", "hyper_parameters"),
    }
)
_OPTIMIZER_WORDS = ("optim", "opt", "param_groups")
_SETTINGS = ("args", "hyper_parameters", "hparams", "config", "cfg", "opt", "meta", "options")
_DEEPEST = 6
_MOST_FACTS = 60
_MOST_EXPANSION = 4  # tensors that share their numbers count each
_SMALL = 1 << 26


def unwrapped(root: Any, form: str, size: int) -> Contents:
    """The tensors of the network in a checkpoint.

    Args:
        root: what the pickle gave.
        form: what the file is, in words.
        size: of the file, in bytes: all tensors together may take no more than four times that (and 64 MB).

    Raises:
        WeightFileError: there is no network in it, or its tensors are out of proportion.
    """
    contents = Contents({}, form)
    network = _find(root, contents)
    if is_module(network):
        name = shown(network.name.removeprefix("__torch__."))
        contents.metadata["class"] = name
        contents.notes.append(f"it is a whole module ({name}): its tensors were read, its code was not run")
    left_out: list[str] = []
    cost = 0
    for name, array in collected(network):
        if not array.usable:
            left_out.append(name)
            continue
        cost += array.cost
        if cost > _MOST_EXPANSION * size + _SMALL:
            raise WeightFileError(
                f"its tensors claim far more data than its {size:,} bytes can hold (at {shown(name)}). Refused: they "
                "could fill the memory"
            )
        contents.add(name, array.tensor())
    if left_out:
        listed = ", ".join(shown(name) for name in left_out[:3])
        contents.notes.append(
            f"{len(left_out)} tensors hold no plain numbers (complex, sparse, quantised, 8 bits) and were left out: "
            + listed
        )
    if not contents.tensors:
        raise WeightFileError(f"it holds no weights, but {_what(root)}")
    return contents


def _find(root: Any, contents: Contents) -> Any:
    """Go down from wrapper to wrapper, and take notes on the way."""
    value = root
    holds = _Holds()
    for _ in range(_DEEPEST):
        entries = _entries(value)
        inner = [key for key in _NETWORKS if key in entries and holds(entries[key])]
        arrays = any(isinstance(it, StoredArray) for it in entries.values())
        if not inner and not arrays:
            inner = [key for key, it in entries.items() if type(key) is str and key not in _NO_NETWORKS and holds(it)]
            if len(inner) > 1:
                _note_groups(inner, contents)
                inner = []
        _add_facts(entries, contents)
        if not inner and is_module(value):
            return value
        if not inner:
            return _without_optimizer(entries, holds, contents)
        beside = [key for key, it in entries.items() if type(key) is str and key != inner[0] and holds(it)]
        _note_choice(inner, [key for key in beside if key not in inner], contents)
        value = entries[inner[0]]
    return value


def _without_optimizer(entries: Mapping[Any, Any], holds: _Holds, contents: Contents) -> dict[Any, Any]:
    """All that is there, but for what is no network by its name."""
    kept = {}
    left_out = []
    for key, it in entries.items():
        if key not in _NO_NETWORKS or isinstance(it, StoredArray):
            kept[key] = it
        elif holds(it):
            left_out.append(key)
    if left_out and any(holds(it) for it in kept.values()):
        contents.notes.append(f"beside the weights were left out: {_listed(left_out)}")
    return kept


def _note_groups(groups: list[str], contents: Contents) -> None:
    listed = ", ".join(shown(key, 40) for key in groups[:5])
    contents.notes.append(f"its tensors are in {len(groups)} groups ({listed}), which begin their names")


def _note_choice(inner: list[str], beside: list[str], contents: Contents) -> None:
    taken, *others = inner
    if others:
        why = " (a moving average)" if taken in _AVERAGED else ""
        contents.notes.append(
            f"the weights under {shown(taken, 40)!r}{why} were taken, not those under {_listed(others)}"
        )
    states = [key for key in beside if key.startswith(_OPTIMIZER_WORDS)]
    if states:
        contents.notes.append(f"the optimizer's state ({_listed(states)}) was left out")
    others = [key for key in beside if not key.startswith(_OPTIMIZER_WORDS)]
    if others:
        contents.notes.append(f"tensors beside the weights were left out: {_listed(others)}")


def _listed(keys: list[str]) -> str:
    return ", ".join(shown(key, 40) for key in keys[:5]) + (", ..." if len(keys) > 5 else "")


def _entries(value: Any) -> Mapping[Any, Any]:
    """What is in a dict, an object that is no module, or a short list, by name."""
    if type(value) is dict:
        return value
    if isinstance(value, Inert) and not is_module(value):
        return value.items or value.state
    if type(value) in (list, tuple) and len(value) <= 16:
        return {str(number): it for number, it in enumerate(value)}
    return {}


class _Holds:
    """Whether there is a tensor or a module somewhere in a value; each value is looked at once."""

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}

    def __call__(self, value: Any, depth: int = 0) -> bool:
        if isinstance(value, StoredArray) or is_module(value):
            return True
        known = self._known.get(id(value))
        if known is not None or depth > _DEEPEST:
            return bool(known)
        entries = _entries(value)
        if not entries:
            return False
        self._known[id(value)] = False  # while it is looked at: it may contain itself
        found = any(self(it, depth + 1) for it in entries.values())
        self._known[id(value)] = found
        return found


def _add_facts(entries: Mapping[Any, Any], contents: Contents) -> None:
    """What the checkpoint says about itself, as short text: epoch, arch, args.model, ..."""
    for key, value in entries.items():
        if type(key) is not str:
            continue
        _add_fact(key, value, contents)
        if key in _SETTINGS:
            for name, it in _entries(value).items():
                if type(name) is str:
                    _add_fact(f"{key}.{name}", it, contents)


def _add_fact(key: str, value: Any, contents: Contents) -> None:
    if type(value) in (str, int, float, bool) and value != "" and len(contents.metadata) < _MOST_FACTS:
        contents.metadata.setdefault(shown(key), shown(str(value), 200))


def _what(root: Any) -> str:
    if isinstance(root, StoredArray):
        return "one tensor without a name"
    if isinstance(root, Inert):
        return f"an object of {shown(root.name)}"
    keys = [key for key in root if type(key) is str] if type(root) is dict else []
    if {"state", "param_groups"} <= set(keys):
        return "the state of an optimizer: the weights are in another file"
    return f"a dict with {_listed(keys)}" if keys else f"a Python {type(root).__name__}"
