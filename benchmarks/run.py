"""Measure Greffon: `make bench` for everything, `make bench ROW=name` for one row.

Prints Markdown; docs/performance.md holds what came out on a named machine. Times alone say nothing on a shared
machine: every row but start-up is a ratio, both sides run in turn in this process.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))

import fit
import trunk

HEAD = "| what | ratio | spread | Keras | Greffon |\n|---|---|---|---|---|"
ROWS = {
    "trunk": lambda: [trunk.measure(variant) for variant in ("v1", "thin")],
    **{row.name: (lambda row=row: [fit.measure(row)]) for row in fit.ROWS},
}


def main(wanted: list[str]) -> int:
    """Measure the rows that were named, or all of them and start-up."""
    unknown = [name for name in wanted if name not in {*ROWS, "startup"}]
    if unknown:
        print(f"expected rows among {', '.join([*ROWS, 'startup'])}, got {', '.join(unknown)}", file=sys.stderr)
        return 2
    packages = ", ".join(f"{name} {version(name)}" for name in ("greffon", "keras", "tensorflow", "onnxruntime"))
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, {packages}\n")
    print(HEAD)
    for name, measure in ROWS.items():
        if not wanted or name in wanted:
            print(*measure(), sep="\n", flush=True)
    if not wanted or "startup" in wanted:
        print()
        subprocess.run([sys.executable, str(Path(__file__).parent / "startup.py")], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
