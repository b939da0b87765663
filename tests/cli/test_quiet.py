from __future__ import annotations

import os
import subprocess
import sys

import pytest

# A stand-in for TensorFlow that writes to the process's standard error what the real one does.
CHATTER = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795497320.526183    8383 port.cc:153] oneDNN custom operations are on.
2024-11-24 05:08:00.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on.
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow.
E0000 00:00:1795497324.278586    8383 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR (303)
"""


def imported(folder, ending: str, *, debug: bool = False, prelude: str = "") -> subprocess.CompletedProcess:
    start = f"import contextlib, os\nwith contextlib.suppress(OSError):\n    os.write(2, {CHATTER!r}.encode())\n"
    (folder / "tensorflow.py").write_text(f"{start}{ending}\n", encoding="utf-8")
    code = f"{prelude}\nfrom greffon.cli.quiet import quiet\nquiet()\nquiet()\nimport tensorflow\nprint('done')"
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": path, "GREFFON_DEBUG": "1" if debug else "0"}
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=env)


def test_the_libraries_chatter_is_dropped_and_the_rest_kept(tmp_path):
    done = imported(tmp_path, "import sys; print('from the driver: reboot', file=sys.stderr)")
    assert (done.stdout, done.stderr) == ("done\n", "from the driver: reboot\n")


def test_a_failed_import_shows_everything(tmp_path):
    done = imported(tmp_path, "raise ImportError('no AVX')")
    assert done.returncode == 1
    assert done.stderr.startswith(CHATTER)
    assert "ImportError: no AVX" in done.stderr


def test_an_interrupted_import_shows_nothing_of_it(tmp_path):
    done = imported(tmp_path, "raise KeyboardInterrupt")
    assert "oneDNN" not in done.stderr
    assert "KeyboardInterrupt" in done.stderr


def test_debug_shows_everything(tmp_path):
    assert imported(tmp_path, "", debug=True).stderr == CHATTER


def test_without_a_standard_error_nothing_breaks(tmp_path):
    done = imported(tmp_path, "", prelude="import os\nos.close(2)")
    assert done.stdout == "done\n"


def test_warnings_are_one_line_without_a_place(tmp_path):
    done = imported(tmp_path, "import warnings; warnings.warn('25,690,368 parameters on 30 pictures')")
    assert done.stderr == "warning: 25,690,368 parameters on 30 pictures\n"


@pytest.mark.parametrize(("given", "expected"), [(None, "3"), ("0", "0")])
def test_the_users_log_level_is_respected(given, expected):
    code = "import os\nfrom greffon.cli.quiet import quiet\nquiet()\nprint(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    env = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    env |= {} if given is None else {"TF_CPP_MIN_LOG_LEVEL": given}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == expected


def test_the_real_one_starts_without_a_word():
    code = "from greffon.cli.quiet import quiet\nquiet()\nimport keras\nkeras.ops.ones((2, 2)) + 1"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
