"""How long it takes until the command line answers: whole processes, the way a user waits for them.

    python benchmarks/startup.py [--rounds 7]

Every round runs each command once, so that what else the machine does falls on all of them alike. The table gives
the smallest, the middle and the largest time in seconds, and how much of the middle is Python's own start (`python -c
pass`). Nothing is asserted: 0.5 s for `greffon --help` is what the design asks for.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from greffon.cli.app import COMMANDS

GREFFON = (sys.executable, "-m", "greffon")
ROWS: dict[str, tuple[str, ...]] = {
    "python -c pass": (sys.executable, "-c", "pass"),
    "import greffon": (sys.executable, "-c", "import greffon"),
    "greffon --version": (*GREFFON, "--version"),
    "greffon --help": (*GREFFON, "--help"),
    **{f"greffon {command} --help": (*GREFFON, command, "--help") for command in COMMANDS},
    "greffon weights list": (*GREFFON, "weights", "list"),
    "greffon cache info": (*GREFFON, "cache", "info"),
    "import keras": (sys.executable, "-c", "import keras"),
}


def seconds(command: tuple[str, ...]) -> float:
    """Wall time of one process, which must succeed."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    print("\n".join(table(parser.parse_args().rounds)))


def measure(options) -> list[str]:
    """The table, for `run.py`."""
    return table(1 if options.smoke else 5)


def table(rounds: int) -> list[str]:
    """Lines of Markdown."""
    for command in ROWS.values():  # once for the disk: bytecode is written, files are in memory
        seconds(command)
    times: dict[str, list[float]] = {name: [] for name in ROWS}
    for _ in range(rounds):
        for name, command in ROWS.items():
            times[name].append(seconds(command))
    python = statistics.median(times["python -c pass"])
    head = ["| command | min s | median s | max s | of it Python's own |", "|---|---|---|---|---|"]
    return head + [
        f"| `{name}` | {min(all_):.2f} | {statistics.median(all_):.2f} | {max(all_):.2f} "
        f"| {min(1.0, python / statistics.median(all_)):.0%} |"
        for name, all_ in times.items()
    ]


if __name__ == "__main__":
    main()
