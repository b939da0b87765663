"""The child process of `damage.py`: opens one weight file after the other, reads everything, tells what came.

Its own program, so that a crash or a hang of a C library ends nothing but itself. It imports no TensorFlow.
"""

import contextlib
import faulthandler
import hashlib
import importlib
import json
import os
import resource
import sys
import traceback
from pathlib import Path


def _peak():
    """Most memory that was resident since `_forget_peak`, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):  # not Linux: the most since the process began
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _forget_peak():
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _limit(room):
    """No allocation may go far beyond what the process has now: a bomb becomes a MemoryError here."""
    try:
        now = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (now + room, resource.RLIM_INFINITY))
    except (OSError, ValueError, IndexError):
        pass


def _everything(path):
    with importlib.import_module(sys.argv[2]).opened(Path(path)) as contents:
        return {name: tensor.load() for name, tensor in contents.tensors.items()}


def _tell(path):
    from greffon.errors import WeightFileError

    _forget_peak()
    before = _peak()
    try:
        arrays = _everything(path)
    except WeightFileError as error:
        answer = {"refused": str(error)}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    else:
        answer = {
            "arrays": {
                name: [list(array.shape), str(array.dtype), hashlib.sha256(array.tobytes()).hexdigest()]
                for name, array in arrays.items()
            }
        }
        del arrays
    return answer | {"memory": max(_peak() - before, 0)}


def main():
    """One path a line comes in, one JSON object a line goes out."""
    faulthandler.enable()
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what libraries print is no answer
        _limit(int(sys.argv[1]))
        for line in sys.stdin:
            answers.write(json.dumps(_tell(json.loads(line))) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
