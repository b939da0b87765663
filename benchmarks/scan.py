"""How fast a folder is scanned, the first time and again, and how much memory that takes.

    python benchmarks/scan.py [--pictures 10000] [--rounds 1]

Pictures are generated: photograph-like JPEGs and PNGs of several sides. Every scan runs in a process of its own with an
empty or a filled memory of earlier scans. The first one reads, hashes, decodes and measures every picture to its last
pixel; the bare side only hashes every file and reads its header, one after the other. The second scan finds nothing
changed. Asked for: 1,000 small pictures a second on two cores, under 600 MB, a second scan in under 2 s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

KINDS = {
    "JPEG, 128 x 96": ((128, 96), ".jpg"),
    "JPEG, 320 x 240": ((320, 240), ".jpg"),
    "PNG, 32 x 32": ((32, 32), ".png"),
}

_CHILD = """
import json, resource, sys, time
from pathlib import Path
root = Path(sys.argv[1])
from greffon.pictures.layout import read_layout
from greffon.pictures.scan import scan
loaded, processor = time.perf_counter(), time.process_time()
files = [(entry.path, entry.file) for entry in read_layout(root).entries]
if sys.argv[2] == "scan":
    found = scan(root, files)
    bad = sum(bool(each.reason) for each in found)
else:
    import xxhash
    from greffon.pictures.decode import read_size
    bad = 0
    for _, file in files:
        content = file.read_bytes()
        xxhash.xxh3_128_hexdigest(content)
        read_size(content)
ended, processor = time.perf_counter(), time.process_time() - processor
status = Path("/proc/self/status")
if status.exists():  # getrusage begins with the size of the process that started this one
    peak = next(int(line.split()[1]) / 1e3 for line in status.read_text().splitlines() if "VmHWM" in line)
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
print(json.dumps({"seconds": ended - loaded, "processor": processor, "megabytes": peak, "bad": bad}))
"""


def write(root: Path, count: int, size: tuple[int, int], suffix: str) -> Path:
    """Pictures of two classes; all differ."""
    random = np.random.default_rng(0)
    scenes = [_scene(random, size) for _ in range(50)]
    for number in range(count):
        folder = root / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.roll(scenes[number % 50], (number // 50, number % 7), (0, 1))
        pixels[0, 0] = (number % 256, number // 256 % 256, 0)
        file = folder / f"{number:06}{suffix}"
        Image.fromarray(pixels).save(file, **({"quality": 90} if suffix == ".jpg" else {}))
    return root


def _scene(random, size):
    width, height = size
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
    return (smooth + random.normal(0, 6, (height, width, 1))).clip(0, 255).astype(np.uint8)


def run(root: Path, what: str, cache: Path) -> dict[str, float]:
    """One scan in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(root), what],
        env={**os.environ, "GREFFON_CACHE": str(cache)},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


def table(count: int, rounds: int) -> list[str]:
    """Lines of Markdown."""
    lines = [
        f"| {count:,} pictures | hash and header, one by one (per s) | whole scan (per s) | processor (ms each) "
        "| peak MB | again (s) |",
        "|---|---|---|---|---|---|",
    ]
    for name, (size, suffix) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            root = write(Path(folder, "data"), count, size, suffix)
            time.sleep(2.5)  # what has just changed is not remembered
            bare, first, again = [], [], []
            for number in range(rounds):
                cache = Path(folder, f"cache{number}")
                bare.append(run(root, "header", cache))
                first.append(run(root, "scan", cache))
                again.append(run(root, "scan", cache))
        if any(each["bad"] for each in (*first, *again)):
            raise RuntimeError("a good picture was found to be bad")
        middle = [statistics.median(each["seconds"] for each in side) for side in (bare, first, again)]
        peak = max(each["megabytes"] for each in (*first, *again))
        each_ms = 1e3 * statistics.median(run["processor"] for run in first) / count
        speeds = [f"{count / seconds:,.0f}" for seconds in middle[:2]]
        lines.append(f"| {name} | {speeds[0]} | {speeds[1]} | {each_ms:.2f} | {peak:,.0f} | {middle[2]:.2f} |")
    return lines


def measure(options) -> list[str]:
    """The table, for `run.py`."""
    return table(60 if options.smoke else 10_000, options.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    print("\n".join(table(options.pictures, options.rounds)))


if __name__ == "__main__":
    main()
