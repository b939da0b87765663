"""What the names in a PyTorch file stand for: known constructors, refused ones, and all the others, which do nothing.

Nothing here ever looks a name up in a module (see `pickled`), so that none of them could run. Names that no training
script has a reason to write are refused all the same: who finds them has a hostile file, and should know.
"""

from __future__ import annotations

from typing import Any

from greffon.errors import WeightFileError
from greffon.weights.read import torch_arrays, torch_numpy, torch_rebuild
from greffon.weights.read.pickled_values import Inert, Known, Name, Opaque

_SHOWN = 6
_USUAL = ("torch.", "__torch__.", "torchvision.", "numpy.", "builtins.", "__builtin__.")  # not worth a note

# Packages of which every name is refused: they run code, start programs, or reach files and networks.
_REFUSED = frozenset(
    """
    os posix nt ntpath posixpath subprocess sys runpy importlib imp _imp pkgutil zipimport pkg_resources ctypes _ctypes
    cffi socket _socket socketserver ssl shutil pickle _pickle cPickle pickletools cloudpickle dill joblib marshal
    shelve code codeop commands popen2 pty pdb bdb trace profile cProfile timeit doctest pydoc inspect gc signal atexit
    threading _thread thread asyncio concurrent multiprocessing webbrowser http httplib urllib urllib2 urllib3 ftplib
    smtplib telnetlib poplib imaplib requests httpx aiohttp xmlrpc tempfile glob fileinput io _io linecache mmap pip
    setuptools distutils ensurepip venv sqlite3 operator _operator functools codecs _codecs types copyreg copy_reg
    builtins __builtin__ __builtins__ platform site readline rlcompleter resource winreg _winreg _winapi msvcrt
    fcntl syslog faulthandler weakref antigravity idlelib lib2to3 turtle fabric paramiko sh plumbum psutil
    """.split()  # noqa: SIM905  # as a list it would be 120 lines
)
_REFUSED_MODULES = frozenset(
    {"os", "sys", "subprocess", "builtins", "importlib", "ctypes", "socket", "shutil", "posix"}
)
# Parts of packages that are otherwise harmless.
_REFUSED_PARTS = (
    *("torch.load", "torch.save", "torch.hub", "torch.serialization.load", "torch.serialization._load"),
    *("torch.storage._load_from_bytes", "torch.utils.cpp_extension", "torch.utils.model_zoo", "torch.compile"),
    *("torch.utils.data.datapipes.utils", "torch.utils.collect_env", "torch.utils._config_module", "torch.package"),
    *(
        "torch._dynamo",
        "torch._inductor",
        "torch.distributed.rpc",
        "torch.multiprocessing",
        "torch.ops",
        "torch.classes",
    ),
    *("torch.jit.load", "torch.jit.script", "torch.jit.unsupported_tensor_ops", "torch.fx", "torch.testing"),
    *("numpy.load", "numpy.loadtxt", "numpy.genfromtxt", "numpy.fromfile", "numpy.memmap", "numpy.save", "numpy.savez"),
    *("numpy.lib.npyio", "numpy.lib.format", "numpy.lib._npyio_impl", "numpy.testing", "numpy.f2py", "numpy.distutils"),
    *("numpy.ctypeslib", "numpy.core._internal", "numpy._core._internal", "numpy.DataSource", "numpy.lib._datasource"),
    *("logging.config", "collections.namedtuple", "dataclasses.make_dataclass"),
)
# Names in refused packages that checkpoints do hold.
_HARMLESS = frozenset(
    {
        "functools.partial",  # what it is given has a name of its own, which is looked at
        "types.SimpleNamespace",
        "types.MappingProxyType",
        *(
            f"{module}.{name}"
            for module in ("builtins", "__builtin__")
            for name in (
                *("object", "int", "float", "complex", "bool", "str", "bytes", "bytearray", "list", "tuple", "dict"),
                *("set", "frozenset", "range", "xrange", "slice", "type", "unicode", "long", "basestring", "Ellipsis"),
                *("NotImplemented", "max", "min", "sum", "len", "abs", "round", "sorted"),
                *("Exception", "ValueError", "TypeError", "RuntimeError", "KeyError", "StopIteration"),
            )
        ),
    }
)


def _itself(arguments: tuple[Any, ...]) -> Any:
    return arguments[0] if arguments else Opaque()


def _list(arguments: tuple[Any, ...]) -> Any:
    return arguments[0] if arguments and type(arguments[0]) is list else []


def _dict(arguments: tuple[Any, ...]) -> Any:
    """A dict as it is, or from pairs, as Python 2 wrote an OrderedDict."""
    pairs = arguments[0] if arguments else {}
    if type(pairs) is dict:
        return pairs
    made: dict[Any, Any] = {}
    for pair in pairs if type(pairs) in (list, tuple) else ():
        if type(pair) in (list, tuple) and len(pair) == 2 and type(pair[0]) is str:
            made[pair[0]] = pair[1]
    return made


def _new(arguments: tuple[Any, ...]) -> Any:
    """`copyreg`: an object of the class that comes first."""
    cls = arguments[0] if arguments else None
    if isinstance(cls, Known):
        return cls.make(()) if cls.full in _CONTAINERS else Opaque()
    return Inert(cls.full if isinstance(cls, Name) else "object")


_CONTAINERS = {
    "collections.OrderedDict": _dict,
    "collections.Counter": _dict,
    "collections.defaultdict": lambda arguments: {},
    "builtins.dict": _dict,
    "__builtin__.dict": _dict,
    "collections.deque": _list,
    "builtins.set": _list,
    "builtins.frozenset": _list,
    "builtins.list": _list,
    "__builtin__.set": _list,
    "__builtin__.frozenset": _list,
    "__builtin__.list": _list,
}
_KNOWN: dict[str, Any] = {
    **torch_arrays.dtypes(),
    **torch_rebuild.makers(),
    **torch_numpy.makers(),
    **{
        full: Known(full, make)
        for full, make in {
            **_CONTAINERS,
            "torch.Size": lambda arguments: arguments[0] if arguments else (),
            "copyreg._reconstructor": _new,
            "copy_reg._reconstructor": _new,
            "copyreg.__newobj__": _new,
            "copyreg.__newobj_ex__": _new,
            "torch.jit._pickle.build_intlist": _itself,
            "torch.jit._pickle.build_tensorlist": _itself,
            "torch.jit._pickle.build_doublelist": _itself,
            "torch.jit._pickle.build_boollist": _itself,
            "torch.jit._pickle.restore_type_tag": _itself,
        }.items()
    },
}


class Names:
    """What the names in one file stand for.

    Attributes:
        set_aside: names of classes and functions that were met and do nothing, in the file's order.
    """

    def __init__(self) -> None:
        self.set_aside: dict[str, None] = {}

    def find(self, module: str, name: str) -> Any:
        """The value for a name in a file.

        Raises:
            WeightFileError: no weight file has a reason to name it.
        """
        full = f"{module}.{name}"
        if full in _KNOWN:
            return _KNOWN[full]
        if _refused(module, name):
            raise WeightFileError(
                f"it names {shown(full)}, which could run code or reach files of this machine when a program opens "
                "it in the usual way. Nothing was run. Do not trust this file: get the weights from another source, "
                "as safetensors where there are such"
            )
        self.set_aside[full] = None
        return Name(full)

    def notes(self) -> list[str]:
        """One sentence about the names that were set aside, if any were."""
        others = [name for name in self.set_aside if not name.startswith(_USUAL)]
        if not others:
            return []
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        listed = ", ".join(shown(name) for name in others[:_SHOWN])
        return [f"classes and functions that the file names were left out, and nothing of them was run: {listed}{more}"]


def _refused(module: str, name: str) -> bool:
    full = f"{module}.{name}"
    if full in _HARMLESS:
        return False
    if module.partition(".")[0] in _REFUSED or f"{full}.".startswith(tuple(f"{part}." for part in _REFUSED_PARTS)):
        return True
    if name in _REFUSED_MODULES:  # a module that another one imports: "torch.serialization" and "os"
        return True
    # A dotted name goes from attribute to attribute: "argparse" and "_os.system". Nested classes have dots, too.
    parts = name.split(".")
    return len(parts) > 1 and any(part.startswith("__") or part.lstrip("_") in _REFUSED for part in parts)


def shown(text: str, most: int = 80) -> str:
    """Text of a file fit for a terminal: short, on one line, without control characters."""
    text = "".join(it if it.isprintable() else "?" for it in text[: most + 1])
    return text if len(text) <= most else text[:most] + "..."
