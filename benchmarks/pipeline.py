"""The trunk from picture files on the disk to activations in the store, against a bare loop of its engine on arrays.

What the bare loop has for nothing, reading, decoding and storing, the pipeline has to hide behind computing. With as
few cores as the engine uses, decoding takes its time from the engine's: the note of each row says how much processor
time a picture takes on both sides, which bounds the ratio where the engine alone keeps all cores busy.

    python benchmarks/pipeline.py FOLDER

is what the row of memory runs, in a process of its own: it computes the trunk for all pictures of the folder, from
the catalog on, and prints the peak of its anonymous memory.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from rows import Row, Skipped

CHUNK = 32
SIDE = 224
SMALL = 32
MANY, FEW = 20_000, 2_000


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: of the row.
        what: what goes through.
        variant: of the ResNet-50.
        unfreeze: where the trunk ends.
        megapixels: of each picture; None: 90 to 640 pixels on a side, or those of the user's folder.
        files: how many there are.
        rounds: how often each is computed in one pass.
        target: share of the bare loop's speed to reach.
    """

    name: str
    what: str
    variant: str = "v1"
    unfreeze: str = "none"
    megapixels: float | None = None
    files: int = 192
    rounds: int = 1
    target: float | None = 0.95


CASES = (
    Case("pipeline/v1", "trunk from JPEG files, v1, pooled"),
    Case("pipeline/thin", "trunk from JPEG files, thin, pooled", variant="thin", rounds=2, target=0.9),
    Case("pipeline/conv5", "trunk from JPEG files, v1, in front of conv5", unfreeze="conv5"),
    Case("pipeline/12-megapixels", "the same of 12 megapixels, pooled", megapixels=12, files=24, rounds=4, target=None),
)


def measure(options):
    """Throughput of every case, and memory for many pictures against few."""
    return [_throughput(case, options) for case in CASES] + [_memory(options)]


def _throughput(case, options):
    with tempfile.TemporaryDirectory() as folder:
        paths = _files(Path(folder), case, options) * (1 if options.smoke else case.rounds)
        pass_ = _Pass(case, paths, 64 if options.smoke else SIDE, small=options.smoke)
        decoding = _clock(pass_.decode)
        bare, piped = [], []
        for _ in range(options.rounds):
            bare.append(_clock(pass_.bare))
            piped.append(pass_.clock_pipeline())
    count = len(paths)
    processor = {"decoding": decoding[1], "bare": min(each[1] for each in bare), "all": min(each[1] for each in piped)}
    processor = {name: 1e3 * seconds / count for name, seconds in processor.items()}
    return Row(
        case.name,
        case.what,
        f"{count / statistics.median(each[0] for each in bare):.1f}/s, the engine's bare loop on arrays",
        f"{count / statistics.median(each[0] for each in piped):.1f}/s",
        [one[0] / other[0] for one, other in zip(bare, piped, strict=True)],
        target=None if options.smoke else case.target,
        note=f"processor time for a picture: {processor['bare']:.1f} ms bare, {processor['all']:.1f} ms in all, of "
        f"which {processor['decoding']:.1f} ms decoding; {processor['bare'] / processor['all']:.0%} is what busy cores "
        "allow",
        table="pipeline",
        extra={"processor_ms": processor, "pictures": count},
    )


class _Pass:
    """One list of pictures, computed by the pipeline from files and by the engine alone from arrays."""

    def __init__(self, case, paths, side, *, small):
        from greffon.frozen.build import build_engine

        self.paths, self.side = paths, side
        self.graph, self.cut = network(case.variant, case.unfreeze, side, small=small)
        self.keys = [os.urandom(16) for _ in paths]
        self.engine = build_engine(self.cut.trunk)
        self.arrays = self.load(np.arange(len(paths)))[0]
        self.engine.run([self.arrays[:CHUNK]])

    def load(self, rows):
        return decoded([self.paths[row] for row in rows], self.side)

    def decode(self):
        for start in range(0, len(self.paths), CHUNK):
            self.load(np.arange(start, min(start + CHUNK, len(self.paths))))

    def bare(self):
        for start in range(0, len(self.arrays), CHUNK):
            self.engine.run([self.arrays[start : start + CHUNK]])

    def clock_pipeline(self):
        """What a whole pass takes once trunk and store are there: hashing weights is for `greffon.train` to account."""
        from greffon.frozen.store import ActivationStore

        with tempfile.TemporaryDirectory() as folder, ActivationStore(folder) as store:
            return _clock(filling(self, store, build=lambda _: self.engine))


def network(variant, unfreeze, side, *, small):
    """A grafted ResNet-50 with random weights, frozen and cut; `small`: one block a stage."""
    import greffon
    from greffon.backbone.resnet import resnet
    from greffon.frozen.cut import find_cut
    from greffon.frozen.even import at_even_positions
    from greffon.frozen.graph import flatten

    blocks = {"blocks": (1, 1, 1, 1)} if small else {}
    model = greffon.graft(resnet(variant=variant, input_shape=(side, side, 3), **blocks), 10, preprocessing="caffe")
    greffon.freeze(model, unfreeze)
    graph = at_even_positions(flatten(model))
    return graph, find_cut(model, graph=graph)


def decoded(paths, side):
    """Pictures as `greffon.train` decodes them: [uint8 (n, side, side, 3)]."""
    from greffon.pictures.decode import decode_many

    pictures = np.empty((len(paths), side, side, 3), np.uint8)
    for place, picture in decode_many(paths, side, "crop"):
        pictures[place] = picture
    return [pictures]


def filling(pictures, store, **options):
    """What computes and stores what `greffon.train` computes and stores before its stages begin, when it is called.

    Args:
        pictures: has `graph`, `cut`, `keys`, `load` and `side`.
        store: an empty one.
        options: what else `OnePass` takes.
    """
    from greffon.frozen.activations import Activations
    from greffon.frozen.together import OnePass
    from greffon.frozen.trunk import Trunk

    trunk = Trunk(pictures.cut, [(pictures.side, pictures.side, 3)], store=store, dtype="float16")
    part = Activations(trunk, pictures.keys, pictures.load)
    one_pass = OnePass(pictures.graph, [part], pictures.load, **options)

    def run():
        one_pass.run()
        if not part.holds(np.arange(len(part))):
            raise RuntimeError("the store did not take all activations")

    return run


def _clock(work):
    """Seconds that it took, and seconds of processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


# --- memory --------------------------------------------------------------------------------------------------------


def _memory(options):
    if not Path("/proc/self/status").exists():
        raise Skipped("the system does not say how much anonymous memory a process has")
    few, many = (40, 80) if options.smoke else (FEW, MANY)
    with tempfile.TemporaryDirectory() as folder:
        peaks = {count: [] for count in (few, many)}
        for count in peaks:
            write(Path(folder, str(count)), count, [(48, 48)])
        for _ in range(1 if options.smoke else options.rounds):
            for count, found in peaks.items():
                found.append(_peak_of(Path(folder, str(count))))
    less, more = (statistics.median(peaks[count]) for count in (few, many))
    return Row(
        "pipeline/memory",
        f"peak of anonymous memory, {few:,} small pictures against {many:,}",
        f"{less / 1e6:.0f} MB for {few:,}",
        f"{more / 1e6:.0f} MB for {many:,}",
        [one / other for one, other in zip(peaks[few], peaks[many], strict=True)],
        target=None if options.smoke else 1 / 1.1,
        note="from the catalog to the last activation stored, in a process that has loaded TensorFlow",
        table="pipeline",
        extra={str(count): found for count, found in peaks.items()},
    )


def _peak_of(folder):
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "GREFFON_CACHE": cache, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, __file__, str(folder)]
        done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout)["peak"]


def run_over(folder):
    """Bytes of anonymous memory at the most while all pictures of a folder go through the trunk; prints them."""
    import xxhash

    from greffon.frozen.store import ActivationStore
    from greffon.pictures.catalog import Catalog
    from greffon.pictures.split import split

    graph, cut = network("thin", "none", SMALL, small=False)
    with _watched() as peak, ActivationStore() as store:
        catalog = split(Catalog.from_folder(folder), validation=0.2, seed=0)
        paths = [catalog.root / path for path in catalog.ok["path"]]
        pictures = SimpleNamespace(
            graph=graph,
            cut=cut,
            keys=[xxhash.xxh3_128_digest(content.encode()) for content in catalog.ok["hash"]],
            load=lambda rows: decoded([paths[row] for row in rows], SMALL),
            side=SMALL,
        )
        filling(pictures, store)()
    print(json.dumps({"pictures": len(paths), "peak": peak[0]}))


@contextmanager
def _watched():
    """A list of one number: the most anonymous memory (RssAnon) that this process had meanwhile, in bytes."""
    peak, over = [0], threading.Event()

    def look():
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        (anonymous,) = (line.split()[1] for line in lines if line.startswith("RssAnon:"))
        peak[0] = max(peak[0], 1024 * int(anonymous))

    def watch():
        while not over.wait(0.02):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
        look()


# --- files ---------------------------------------------------------------------------------------------------------


def _files(folder, case, options):
    count = 8 if options.smoke else case.files
    if case.megapixels:
        high = round((case.megapixels * 1e6 * 3 / 4) ** 0.5 / (8 if options.smoke else 1))
        return write(folder, count, [(high * 4 // 3, high)])
    if options.data is not None:
        found = sorted(path for path in options.data.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        if found:
            return (found * -(-count // len(found)))[:count]
    return write(folder, count, [(90, 120), (250, 250), (435, 375), (200, 125), (640, 480), (320, 240), (125, 125)])


def write(folder, count, sizes):
    """JPEG files with about as many bytes as photographs of those sizes have; two classes."""
    from PIL import Image

    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        width, height = sizes[number % len(sizes)]
        rough = random.integers(0, 256, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC), np.int16)
        grain = random.integers(-6, 7, (height, width, 1), dtype=np.int16)
        path = folder / f"class{number % 2}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(path)
    return paths


if __name__ == "__main__":
    run_over(Path(sys.argv[1]))
