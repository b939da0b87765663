"""What the machine offers to an engine."""

from __future__ import annotations

import importlib
import os
import platform
from pathlib import Path
from typing import Any

# Instructions that multiply bytes and add the products in 32 bits; without them ONNX Runtime adds pairs in 16 bits.
# "asimddp" is ARM's.
_EXACT_BYTES = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})


def has_accelerator() -> bool:
    """Whether Keras' backend computes on a GPU or TPU."""
    import keras

    backend = keras.backend.backend()
    if backend == "torch":
        torch: Any = importlib.import_module("torch")  # not a dependency: there where its backend was chosen
        return bool(torch.cuda.is_available() or torch.backends.mps.is_available())
    if backend in ("tensorflow", "jax"):
        return any(not device.startswith("cpu") for device in keras.distribution.list_devices())
    return False


def usable_cores() -> int:
    """Physical cores that this process may use: its affinity, threads of one core counted once, and its quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    if affinity is None:  # macOS and Windows say how many cores there are, and have no quota
        import psutil

        return max(1, psutil.cpu_count(logical=False) or os.cpu_count() or 1)
    cores = {_siblings(processor) for processor in sorted(affinity(0))}
    return max(1, min(len(cores), _quota()))


def cpu_model(file: Path = Path("/proc/cpuinfo")) -> str:
    """What the processor calls itself; its architecture where it does not say."""
    return next(iter(_cpuinfo("model name", file)), None) or platform.processor() or platform.machine()


def sums_bytes_exactly(file: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether sums of products of bytes are exact on this processor; where that is unknown, they may not be."""
    flags = [set(line.split()) for name in ("flags", "Features") for line in _cpuinfo(name, file)]
    return bool(flags) and all(processor & _EXACT_BYTES for processor in flags)


def _cpuinfo(name: str, file: Path) -> list[str]:
    """Linux' lines of this name, one for each processor."""
    try:
        lines = file.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    parts = (line.partition(":") for line in lines)
    return [value.strip() for key, _, value in parts if key.strip() == name]


def _siblings(processor: int) -> str:
    """Linux' list of the processors that share a core; elsewhere every processor counts."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list").read_text("ascii")
    except OSError:
        return str(processor)


def _quota(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole processors that a container's limit allows, rounded up; very many where there is none."""
    try:
        quota, period = (root / "cpu.max").read_text("ascii").split()
    except OSError:
        try:
            quota, period = (
                (root / "cpu" / f"cpu.cfs_{part}_us").read_text("ascii").strip() for part in ("quota", "period")
            )
        except OSError:
            return 2**31
    return -(-int(quota) // int(period)) if quota.isdigit() else 2**31
