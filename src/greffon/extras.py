"""What each extra of the package brings, and which one to install where a library is missing.

`pip install greffon` brings what answers need: `predict`, `verify`, `evaluate`. Keras, TensorFlow and what else
trains come with `greffon[train]`.
"""

from __future__ import annotations

from importlib.util import find_spec

from greffon.errors import MissingPackageError

EXTRAS = {
    "train": ("keras", "tensorflow", "h5py", "lmdb", "onnx", "safetensors", "sklearn", "threadpoolctl"),
    "check": ("cleanlab",),
    "report": ("matplotlib", "jinja2"),
    "export": ("ai_edge_litert", "openvino"),
    "serve": ("fastapi", "h11", "prometheus_client", "python_multipart", "starlette", "uvicorn"),
    "datasets": ("datasets",),
    "heic": ("pillow_heif",),
    "mlflow": ("mlflow",),
    "tune": ("optuna",),
}
"""By extra, the modules that it brings and that nothing else does."""

_INSTEAD = {"tensorflow": ("jax", "torch")}


def install(extra: str) -> str:
    """The command that installs an extra.

    Example:
        >>> from greffon.extras import install
        >>> install("train")
        'pip install "greffon[train]"'
    """
    return f'pip install "greffon[{extra}]"'


def missing(error: ImportError, what: str = "this") -> MissingPackageError | None:
    """The same error as a sentence that says what to install; None where no extra brings what is missing.

    Args:
        error: what an import raised.
        what: what needs the module, to be read in front of "needs".
    """
    module = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules and find_spec(module) is None:
            return MissingPackageError(f"{what} needs {module}, which is not installed: {install(extra)}")
    return None


def require(extra: str, what: str) -> None:
    """Refuse before anything is done where an extra is not installed.

    Args:
        extra: of `EXTRAS`. Of `train`, TensorFlow may be missing where JAX or PyTorch is there for Keras to run on.
        what: what needs it, to be read in front of "needs".

    Raises:
        MissingPackageError: a module of it is missing.
    """
    absent = [module for module in EXTRAS[extra] if not any(map(find_spec, (module, *_INSTEAD.get(module, ()))))]
    if absent:
        raise MissingPackageError(
            f"{what} needs {', '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} not installed: "
            f"{install(extra)}"
        )
