"""Damaged files end as pixels or as a DataError: no other exception, no crash, no endless loop, no flood of memory.

Run as a program (`python test_decode_fuzz.py COUNT SEED`) it prints how many of each there were, the most seconds of
processor time that one of them took, and the peak memory in megabytes: in a process of its own, a crash is a failed
test and not the end of all of them.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import io
import json
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from odd_files import FILES
from PIL import Image, features

from greffon.errors import DataError
from greffon.pictures.decode import crop_loss, decode, read_size
from greffon.pictures.jpeg_check import damage_in
from greffon.pictures.loaded import load
from greffon.pictures.opened import opened
from greffon.pictures.quality import LOOKED_AT, facts_of

SIZE = 32
LIMIT = 500
"""Megabytes that the process may reach at its peak."""

SECONDS = 5
"""Processor time that one file may take."""

HANGS = 120
"""Seconds on the clock after which a file hangs: nothing that counts processor time sees a loop that never ends."""


def seeds():
    """One small file of every kind, with metadata where the kind has any."""
    rng = np.random.default_rng(3)
    rgb = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((60, 45))
    rgba = rgb.convert("RGBA")
    rgba.putalpha(rgb.convert("L"))
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "Maker", 0x011A: 72.0})
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    grey16 = Image.fromarray(np.linspace(0, 65535, 60 * 45).reshape(45, 60).astype(np.uint16))
    floats = Image.fromarray(np.linspace(0, 1, 60 * 45, dtype=np.float32).reshape(45, 60))
    palette = rgb.quantize(32)
    palette.info["transparency"] = 3
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    kinds = [
        (rgb, "JPEG", {"exif": exif}),
        (rgb, "JPEG", {"progressive": True}),
        (rgb.resize((200, 150)), "JPEG", {"restart_marker_rows": 1}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "MPO", {"exif": exif}),
        (rgb, "PNG", {"exif": exif}),
        (rgba, "PNG", {}),
        (palette, "PNG", {}),
        (grey16, "PNG", {}),
        (rgb.convert("1"), "PNG", {}),
        (rgb, "PNG", frames),
        (rgb, "GIF", frames),
        (palette, "GIF", {}),
        (rgb, "WEBP", {"exif": exif}),
        (rgba, "WEBP", {"lossless": True}),
        (rgb, "WEBP", frames),
        (rgb, "BMP", {}),
        (palette, "BMP", {}),
        (rgb, "TIFF", {"exif": exif}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}),
        (rgba, "TIFF", {"compression": "tiff_deflate"}),
        (rgb.convert("1"), "TIFF", {"compression": "group4"}),
        (rgb, "TIFF", {"compression": "jpeg"}),
        (rgb.convert("CMYK"), "TIFF", {}),
        (floats, "TIFF", {}),
        (grey16, "TIFF", {}),
        (rgb, "PPM", {}),
        (rgb, "JPEG2000", {}),
    ]
    if "avif" in features.get_supported_modules():
        kinds.append((rgb, "AVIF", {"exif": exif}))
    files = []
    for image, file_format, options in kinds:
        file = io.BytesIO()
        image.save(file, file_format, **options)
        files.append(file.getvalue())
    return files + odd_seeds()


def odd_seeds():
    """One file of every mode and container that this machine can read."""
    missing = set()
    if "avif" not in features.get_supported_modules():
        missing |= {"avif", "avif with alpha"}
    if importlib.util.find_spec("pillow_heif") is None:
        missing.add("heic")
    return [make() for name, (make, _, _) in FILES.items() if name not in missing]


def mutated(data, rng):
    """The file with one to three faults: bits, bytes, numbers, cuts, doubled, missing and exchanged pieces."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3])):
        if len(data) < 8:
            break
        # Headers are where a single byte changes everything.
        reach = len(data) if rng.random() < 0.5 else min(len(data), 120)
        at, length = rng.randrange(reach), rng.randrange(1, 64)
        match rng.randrange(9):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.choice([0, 1, 127, 128, 255])
            case 2:
                data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\xff\xff"])
            case 3:
                del data[rng.randrange(len(data)) :]
            case 4:
                del data[at : at + length]
            case 5:
                data[at:at] = data[at : at + length]
            case 6:
                data[at : at + length] = rng.randbytes(length)
            case 7:
                other = rng.randrange(len(data))
                data[at : at + length] = data[other : other + length]
            case 8:  # a side that is large, and not too large to be believed
                number = struct.pack(rng.choice([">H", "<H", ">I", "<I"]), rng.randrange(3000, 12_000))
                data[at : at + len(number)] = number
    return bytes(data)


def attempt(data, rule):
    """`picture` or `error`; anything else is raised."""
    try:
        width, height = read_size(data)
        assert width >= 1
        assert height >= 1
        assert 0 <= crop_loss(width, height) < 1
    except DataError:
        pass
    try:
        pixels = decode(data, SIZE, rule)
        with opened(data) as image:
            mode = image.mode
            facts_of(image, load(image, LOOKED_AT, "pad"), mode)
            if image.format == "JPEG":
                damage_in(data, mode)
    except DataError as error:
        assert "object at 0x" not in str(error)
        return "error"
    assert pixels.dtype == np.uint8
    assert pixels.shape == (SIZE, SIZE, 3)
    return "picture"


def run(count, seed):
    """Decode `count` damaged files; how many became what."""
    rng = random.Random(seed)
    files = seeds()
    ends: dict[str, float] = {"picture": 0, "error": 0, "seconds": 0}
    for number in range(count):
        data = mutated(files[number % len(files)], rng)
        faulthandler.dump_traceback_later(HANGS, exit=True)
        began = time.thread_time()
        try:
            ends[attempt(data, ("crop", "stretch", "pad")[number % 3])] += 1
        except Exception as error:
            raise AssertionError(f"file {number} of seed {seed} ended as {type(error).__name__}") from error
        ends["seconds"] = max(ends["seconds"], time.thread_time() - began)
    faulthandler.cancel_dump_traceback_later()
    return ends


def peak_megabytes():
    """The most memory that this process has had."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e6
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage tells there begins with the size of the process that started this one
        return next(int(line.split()[1]) / 1e3 for line in status.read_text().splitlines() if "VmHWM" in line)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def check(count, seed):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(Path(__file__)), str(count), str(seed)],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["picture"] + result["error"] == count
    assert min(result["picture"], result["error"]) > count / 10
    assert result["seconds"] < SECONDS
    assert result["megabytes"] < LIMIT


def test_a_sample_of_damaged_files():
    check(300, seed=1)


@pytest.mark.large
@pytest.mark.parametrize("seed", range(5))
def test_damaged_files_in_a_process_of_their_own(seed):
    check(1000, 100 + seed)


if __name__ == "__main__":
    result = run(int(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps({**result, "megabytes": peak_megabytes()}))  # noqa: T201
