"""Whether plain Keras can open a model once it is saved."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from greffon.bundle.read import reason_of
from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import keras


def check_model(model: keras.Model) -> tuple[str, ...]:
    """Whether a model, once saved, can be opened again. To be called before a training, so that it is not lost.

    Returns:
        What a user has to know to open it, one sentence each; nothing for a model of Keras' own layers.

    Raises:
        InputError: it cannot be saved, or not be opened without running code out of the file.

    Example:
        >>> import keras
        >>> from greffon.bundle.portable import check_model
        >>> check_model(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
        ()
    """
    from greffon.backbone.parts import leaves

    own: dict[str, None] = {}
    for leaf in leaves(model):
        if _is_keras(leaf.layer):
            found = list(_foreign(_saved(leaf.path, leaf.layer)))
        else:
            found = _check_own_layer(leaf.path, leaf.layer)
        own.update(dict.fromkeys(found))
    if not own:
        return ()
    return (
        f"model.keras holds objects that are not Keras' own: {', '.join(own)}. To open it, import their module if it "
        "registers them with keras.saving.register_keras_serializable, or give them as custom_objects to "
        "keras.models.load_model or greffon.load",
    )


def _is_keras(layer: Any) -> bool:
    return type(layer).__module__.partition(".")[0] == "keras"


def _check_own_layer(path: str, layer: Any) -> list[str]:
    """Make a layer again from what would be saved of it; give what in it is not Keras' own."""
    import keras

    if type(layer).__module__.partition(".")[0] == "greffon":
        raise InputError(f"layer {path!r} is one of greffon's own ({type(layer).__name__}): Keras could not open it")
    kinds = {type(part).__name__: type(part) for part in layer._flatten_layers()}
    try:
        saved = _saved(path, layer)
        keras.saving.deserialize_keras_object(saved, custom_objects=kinds, safe_mode=True)
    except InputError:
        raise
    except Exception as error:  # whatever a user's code raises means the same
        raise InputError(
            f"layer {path!r} ({type(layer).__name__}) cannot be saved and made again: {reason_of(error)}. Give it a "
            "get_config that returns the arguments of its __init__"
        ) from error
    return list(_foreign(saved))


def _saved(path: str, layer: Any) -> Any:
    """A layer as it is saved.

    Raises:
        InputError: there is code in it, which Keras does not open in safe mode.
    """
    import keras

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        saved = keras.saving.serialize_keras_object(layer)
    # Keras warns of a lambda wherever it stands; in the result it is not always to be told from other values.
    if isinstance(layer, keras.layers.Lambda) or any("`lambda`" in str(warning.message) for warning in said):
        raise InputError(
            f"layer {path!r} holds a lambda: its code would be saved in the file, and Keras opens such a file only "
            "with safe mode off. Write it as a layer class of your own"
        )
    return saved


def _foreign(saved: Any) -> Iterator[str]:
    """Classes and functions in a layer's configuration that plain Keras does not know."""
    if isinstance(saved, list | tuple):
        for item in saved:
            yield from _foreign(item)
    elif isinstance(saved, dict):
        kind, module = saved.get("class_name"), str(saved.get("module") or "keras")
        if kind == "function":
            yield f"the function {saved.get('config')}"
        elif isinstance(kind, str) and module.partition(".")[0] not in {"keras", "builtins"}:
            yield f"{kind} ({module})"
        yield from _foreign(list(saved.values()))
