"""SIGKILL from outside, at seeded moments; in processes that share nothing with this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kills.py"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")


def kill(folder, *options):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--keep", folder, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "the same weights, probabilities and history each time" in done.stdout
    return done.stdout.splitlines()[-1]


def test_a_handful_of_real_kills(tmp_path):
    """One in each quarter of a training: while it looks at the pictures, solves, trains, trains deeper or writes."""
    assert kill(tmp_path, "--kills", "4", "--small").startswith("4 kills in ")


@pytest.mark.large
def test_fifty_real_kills(tmp_path):
    assert kill(tmp_path, "--kills", "50").startswith("50 kills in ")
