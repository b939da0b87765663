"""PyTorch's functions that build tensors, as they appear in pickles: the same arguments, a checked description out."""

from __future__ import annotations

from typing import Any

from greffon.errors import WeightFileError
from greffon.weights.read.pickled_values import Known, Opaque
from greffon.weights.read.torch_arrays import (
    Dtype,
    Storage,
    StorageView,
    StoredArray,
    TorchArray,
    integer,
    integers,
)


def _rebuild_tensor(arguments: tuple[Any, ...]) -> Any:
    """(storage, offset, sizes, strides), then whether it trains, hooks and flags."""
    storage, offset, sizes, strides, *rest = arguments
    return _tensor(storage, None, offset, (sizes, strides), rest[2:])


def _rebuild_tensor_v3(arguments: tuple[Any, ...]) -> Any:
    """As before, with a type of numbers that is not the storage's before the flags."""
    storage, offset, sizes, strides, _, _, dtype, *rest = arguments
    if not isinstance(dtype, Dtype):
        return StoredArray()  # a type of numbers that is not known
    return _tensor(storage, dtype, offset, (sizes, strides), rest)


def _tensor(storage: Any, dtype: Dtype | None, offset: Any, layout: tuple[Any, Any], flags: list[Any]) -> Any:
    if not isinstance(storage, Storage):
        raise WeightFileError("its pickle is damaged: a tensor without a storage")
    if flags and flags[0]:  # negative or conjugate views
        return StoredArray()
    sizes, strides = layout
    return TorchArray(storage, dtype or storage.dtype, integer(offset), integers(sizes), integers(strides))


def _first(arguments: tuple[Any, ...]) -> Any:
    return arguments[0] if arguments else Opaque()


def _unreadable(arguments: tuple[Any, ...]) -> Any:
    """A tensor of another make: not read, but missed where tensors are counted."""
    return StoredArray()


def _rebuild_from_type(arguments: tuple[Any, ...]) -> Any:
    """(function, class, arguments, state): a tensor of a class of its own, read as a plain one."""
    function, *rest = arguments
    place = 1 if len(rest) > 1 else 0
    inner = _MAKERS.get(function.full) if isinstance(function, Known) else None
    if inner is None or type(rest[place]) is not tuple:
        return StoredArray()
    return inner(rest[place])


_MAKERS = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_device_tensor_from_numpy": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_xla_tensor": _first,
    "torch._utils._rebuild_sparse_tensor": _unreadable,
    "torch._utils._rebuild_sparse_csr_tensor": _unreadable,
    "torch._utils._rebuild_nested_tensor": _unreadable,
    "torch._utils._rebuild_qtensor": _unreadable,
    "torch._utils._rebuild_meta_tensor_no_storage": _unreadable,
    "torch._utils._rebuild_wrapper_subclass": _unreadable,
    "torch.nn.parameter.Parameter": _first,
    "torch.nn.parameter.Buffer": _first,
    "torch.autograd.variable.Variable": _first,
}


def makers() -> dict[str, Known]:
    """Full name in PyTorch -> what builds a tensor from the arguments in a file."""
    made = {full: Known(full, make) for full, make in _MAKERS.items()}
    for name in ("torch._tensor._rebuild_from_type", "torch._tensor._rebuild_from_type_v2"):
        made[name] = Known(name, _rebuild_from_type)
        old = name.replace("_tensor.", "tensor.")  # before PyTorch 1.9
        made[old] = Known(old, _rebuild_from_type)
    return made


def storage_of(key: Any, known: dict[str, Storage]) -> Storage:
    """The storage that a persistent id of PyTorch means: ("storage", class, key, device, numbers, view).

    Args:
        key: the persistent id.
        known: storages by their key; a new one is added.

    Raises:
        WeightFileError: it is no such id, or contradicts an earlier one.
    """
    if type(key) is not tuple or len(key) not in (5, 6) or key[0] != "storage" or type(key[2]) is not str:
        raise WeightFileError("its pickle is damaged: a storage in it is not described as PyTorch does")
    kind, name, count = key[1], key[2], integer(key[4])
    if not isinstance(kind, Dtype):
        raise WeightFileError(f"storage {name[:40]!r} holds numbers of an unknown type")
    storage = known.get(name)
    if storage is None:
        storage = known[name] = Storage(name, kind, count)
    elif (storage.dtype.name, storage.size) != (kind.name, count * kind.size):
        raise WeightFileError(f"storage {name[:40]!r} is described twice, differently")
    view = key[5] if len(key) == 6 else None
    if view is None:
        return storage
    _, offset, size = view
    return StorageView(storage, integer(offset), integer(size))
